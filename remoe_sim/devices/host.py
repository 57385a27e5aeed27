"""Hosts: the memory and the processor next to an accelerator, and the cards that describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoe_sim.devices.link import Component, card_numbers, card_title, doubts
from remoe_sim.util.cards import Fact, read_card

FAMILIES = ("q4", "q8", "mxfp4", "16bit")  # of quantisations, as far as a processor's speed goes
_REQUIRED = ("bandwidth_bytes_per_s",)
_OPTIONAL = ("memory_bytes", "usable_bytes", "system_bytes", "handover_s")
_MATVEC = "matvec_bytes_per_s"


@dataclass(frozen=True, repr=False)
class Host(Component):
    """A host, in SI units; None where a number is not known.

    memory_bytes: all of its memory, usable_bytes: what the system reports, system_bytes: what the system keeps
    bandwidth_bytes_per_s: what all cores read, as measured where that is known
    matvec_bytes_per_s: weight bytes per second that its processor reaches in products of quantised experts with a
    vector, by family of quantisation
    handover_s: from the accelerator to the processor and back, once
    """

    memory_bytes: int | None
    usable_bytes: int | None
    system_bytes: int | None
    bandwidth_bytes_per_s: float
    handover_s: float | None
    matvec_bytes_per_s: dict[str, float]
    note: str | None
    unverified: tuple[str, ...]
    facts: dict[str, Fact]


def host(name_or_path: str | Path) -> Host:
    """Return the host of a card: a name that `remoe-sim list hosts` shows, or the path of a TOML file.

    Raises ValueError, in one sentence, for unknown names and for a card with something missing, unknown or impossible.
    """
    return make_host(*read_card("host", name_or_path))


def make_host(name: str, card: Mapping[str, Any]) -> Host:
    """Return the host of what stands in a card. Raises ValueError as `host` does."""
    where = f"host card '{name}'"
    rest = {key: value for key, value in card.items() if key not in ("title", "note", _MATVEC)}
    found = card_numbers(rest, _REQUIRED, _OPTIONAL, where)
    rates = card_numbers(card.get(_MATVEC, {}), (), FAMILIES, f"{where}, [{_MATVEC}]")
    title = card_title(card, where)
    for key, fact in {**found, **rates}.items():
        if fact.value <= 0 and key not in ("system_bytes", "handover_s"):
            raise ValueError(f"{where}: '{key}' is {fact.value}; give a number above 0")
    known = {**found, **{f"{_MATVEC}.{key}": fact for key, fact in rates.items()}}
    values: dict[str, Any] = dict.fromkeys((*_REQUIRED, *_OPTIONAL)) | {key: one.value for key, one in found.items()}
    return Host(
        name=name, title=title, note=card.get("note"), unverified=tuple(doubts("host", name, known)), facts=known,
        matvec_bytes_per_s={key: float(fact.value) for key, fact in rates.items()}, **values,
    )  # fmt: skip
