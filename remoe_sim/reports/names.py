"""The names that functions and commands take."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from remoe_sim.util.cards import FOLDERS, card_names, listed
from remoe_sim.util.errors import unknown
from remoe_sim.util.plugins import plugins


def names(kind: str) -> list[str]:
    """Return all names of a kind.

    kind: policies, formats, models, devices, hosts, storage, engines, quants or samples (figures: `figures.names()`). A
    function each, such as `remoe_sim.models()`, is not possible: packages have these names. Raises ValueError for
    another kind.

    Examples
    --------
    >>> names("samples")
    ['deepseek-original', 'deepseek-remoe', 'qwen-original', 'qwen-remoe']
    """
    cards = {listed(card): card for card in FOLDERS}
    if kind in cards:
        return card_names(cards[kind])
    if kind == "policies":
        from remoe_sim.policy.base import Policy

        return list(plugins("remoe_sim.policies", Policy))
    if kind == "formats":
        from remoe_sim.formats.format import PACKAGE, TraceFormat

        return list(plugins(PACKAGE, TraceFormat))
    if kind == "quants":
        from remoe_sim.models.quantisation import quant_names

        return list(quant_names())
    if kind == "samples":
        folders = import_module("remoe_sim.traces").__path__
        return sorted(path.stem for folder in folders for path in Path(folder).glob("samples/*.parquet"))
    raise unknown("kind", kind, [*cards, "policies", "formats", "quants", "samples"])
