"""Engines: what a program that runs a model reaches of a machine, and how it caches; and their cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoe_sim.devices.host import FAMILIES
from remoe_sim.devices.link import DEVICE_KINDS, Component, card_numbers, doubts
from remoe_sim.util.cards import Fact, facts, read_card
from remoe_sim.util.errors import unknown

ANY = "any"
_NUMBERS = (
    "layer_s", "state_layer_s", "expert_s", "step_s", "handover_s", "fetch_share", "fetch_sync_s",
    "cpu_share_of_matvec", "kv_share",
)  # fmt: skip
_CACHE = (
    "scope", "groups", "unit", "policy", "admission", "admit_after", "inserts", "prefill", "bypass_above_batch", "miss",
)  # fmt: skip
_SHARES = ("fetch_share", "cpu_share_of_matvec", "kv_share")


@dataclass(frozen=True, repr=False)
class Engine(Component):
    """What an engine costs, in SI units; None where the device's own number stands.

    kinds: of devices that it runs on; share: of a device's peak bandwidth that decode reaches, by kind of device and
    family of quantisation, `any` for all others
    layer_s: per layer, and state_layer_s: more for a layer with a recurrent state; expert_s: per distinct expert of a
    layer; step_s: per step; handover_s: per layer that a processor computes a part of
    fetch_share: of its link that a demand fetch reaches; fetch_sync_s: before the fetches of a layer
    kv_share: of the share above that reading the context reaches
    weight_traffic: bytes moved per byte of weights, by quantisation
    cpu_share_of_matvec: of a host's rate in expert kernels
    cache: how it caches, as its card says
    fitted_from: the runs behind fitted numbers
    """

    kinds: tuple[str, ...]
    share: dict[str, dict[str, float]]
    layer_s: float | None
    state_layer_s: float | None
    expert_s: float | None
    step_s: float | None
    handover_s: float | None
    fetch_share: float | None
    fetch_sync_s: float | None
    cpu_share_of_matvec: float | None
    kv_share: float | None
    weight_traffic: dict[str, float]
    cache: dict[str, Any]
    note: str | None
    fitted_from: str | None
    unverified: tuple[str, ...]
    facts: dict[str, Fact]

    def share_of(self, kind: str, family: str) -> float | None:
        """The share of a device's bandwidth, the nearest that the card says: kind and family, kind, family, any."""
        for one, of in ((kind, family), (kind, ANY), (ANY, family), (ANY, ANY)):
            if of in self.share.get(one, {}):
                return self.share[one][of]
        return None


def engine(name_or_path: str | Path) -> Engine:
    """Return the engine of a card: a name that `remoe-sim list engines` shows, or the path of a TOML file.

    Raises ValueError, in one sentence, for unknown names and for a card with something unknown or impossible.
    """
    return make_engine(*read_card("engine", name_or_path))


def make_engine(name: str, card: Mapping[str, Any]) -> Engine:
    """Return the engine of what stands in a card. Raises ValueError as `engine` does."""
    where = f"engine card '{name}'"
    texts = {key: card[key] for key in ("title", "note", "fitted_from") if key in card}
    title, kinds = texts.get("title"), card.get("kinds", list(DEVICE_KINDS))
    if not title or any(not isinstance(text, str) for text in texts.values()):
        raise ValueError(f'{where}: give title = "…"; title, note and fitted_from have to be texts')
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in DEVICE_KINDS:
            raise ValueError(f"{where}: {unknown('kind of device', str(kind), DEVICE_KINDS)}")
    tables = ("share", "weight_traffic", "cache")
    rest = {key: value for key, value in card.items() if key not in (*texts, "kinds", *tables)}
    found = card_numbers(rest, (), _NUMBERS, where)
    share: dict[str, dict[str, float]] = {}
    for kind, table in _table(card, "share", where).items():
        if kind not in (*DEVICE_KINDS, ANY):
            raise ValueError(f"{where}, [share]: {unknown('kind of device', str(kind), (*DEVICE_KINDS, ANY))}")
        of_kind = card_numbers(table, (), (*FAMILIES, ANY), f"{where}, [share.{kind}]")
        found |= {f"share.{kind}.{family}": fact for family, fact in of_kind.items()}
        share[kind] = {family: float(fact.value) for family, fact in of_kind.items()}
    given = _table(card, "weight_traffic", where)
    traffic = card_numbers(given, (), tuple(given), f"{where}, [weight_traffic]")
    found |= {f"weight_traffic.{quant}": fact for quant, fact in traffic.items()}
    cache = facts(_table(card, "cache", where), (), _CACHE, where=f"{where}, [cache]")
    for key, fact in found.items():
        top = key.split(".")[0]
        if top in (*_SHARES, "share") and not 0 < fact.value <= 1:
            raise ValueError(f"{where}: '{key}' is {fact.value}; give a share above 0, at most 1")
        if top == "weight_traffic" and not fact.value > 0:
            raise ValueError(f"{where}: '{key}' is {fact.value}; give a number above 0")
    numbers: dict[str, Any] = {key: found[key].value if key in found else None for key in _NUMBERS}
    known = {**found, **{f"cache.{key}": fact for key, fact in cache.items()}}
    return Engine(
        name=name, title=title, kinds=tuple(kinds), share=share,
        weight_traffic={quant: float(fact.value) for quant, fact in traffic.items()},
        cache={key: fact.value for key, fact in cache.items()}, note=texts.get("note"),
        fitted_from=texts.get("fitted_from"), unverified=tuple(doubts("engine", name, found)), facts=known, **numbers,
    )  # fmt: skip


def _table(card: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    table = card.get(name, {})
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: [{name}] is {table!r}; give a table")
    return table
