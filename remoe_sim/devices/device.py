"""Devices: their memories, links and speeds, and the cards that describe them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.devices.link import DEVICE_KINDS, LINK_NUMBERS, MORE_LINK_NUMBERS, Link, card_numbers, doubts
from remoe_sim.util.cards import Fact, read_card
from remoe_sim.util.errors import unknown

if TYPE_CHECKING:
    from remoe_sim.devices.engine import Engine
    from remoe_sim.devices.host import Host
    from remoe_sim.devices.storage import Storage


NUMBERS = ("memory_bytes", "bandwidth_bytes_per_s", "efficiency", "layer_s", "expert_s", "step_s")
MORE_NUMBERS = (
    "usable_bytes",
    "system_bytes",
    "flops_per_s",
    "host_bandwidth_bytes_per_s",
    "contention_bytes_per_s",
    "state_bytes_per_s",
    "overlap_efficiency",
)
LINKS = ("host", "storage")
_POSITIVE = (
    "memory_bytes", "usable_bytes", "bandwidth_bytes_per_s", "efficiency", "flops_per_s", "host_bandwidth_bytes_per_s",
    "contention_bytes_per_s", "state_bytes_per_s",
)  # fmt: skip
_TEXTS = ("note", "fitted_from", "kind", "default_host", "default_storage", "default_engine")


@dataclass(frozen=True)
class Device:
    """A machine that computes experts, in SI units.

    unified: CPU and device share one memory, so there is no host link
    memory_bytes: all of it, engine and system included; usable_bytes: what its driver or system reports, None if that
    is not known; system_bytes: what of that the system keeps for itself, None for nothing
    kind: of device, as engines tell them apart
    default_host, default_storage, default_engine: names of the cards that go with it; host_card, storage_card, engine:
    those that it was put together with (`remoe_sim.machine`)
    efficiency: share of bandwidth_bytes_per_s that decode reaches
    flops_per_s: peak dense 16-bit arithmetic, None if unknown
    layer_s, expert_s, step_s: fixed times per layer, per distinct expert of a layer and per step
    host: host memory → device; storage: storage → host memory, or → the one memory; None if there is none or nothing is
    known of it
    host_bandwidth_bytes_per_s: the CPU reading host memory
    contention_bytes_per_s: bytes read per second of computing lost where reads and computing compete for the CPU, under
    overlap only, None where they do not
    state_bytes_per_s: how fast layers with linear attention rewrite their state, None for twice at the effective
    bandwidth
    overlap_efficiency: share of the time that computing during reads saves on paper which it really saves
    unverified: sentences that every output which uses the device has to print
    fitted_from: the measurements behind fitted numbers
    facts: status and source of every number, by its name, those of links as `storage.latency_s`
    """

    name: str
    title: str
    unified: bool
    memory_bytes: int
    bandwidth_bytes_per_s: float
    efficiency: float
    flops_per_s: float | None
    layer_s: float
    expert_s: float
    step_s: float
    host: Link | None
    storage: Link | None
    host_bandwidth_bytes_per_s: float | None
    contention_bytes_per_s: float | None
    state_bytes_per_s: float | None
    overlap_efficiency: float
    unverified: tuple[str, ...]
    fitted_from: str | None
    note: str | None
    facts: dict[str, Fact]
    kind: str = "cuda"
    usable_bytes: int | None = None
    system_bytes: int | None = None
    default_host: str | None = None
    default_storage: str | None = None
    default_engine: str | None = None
    host_card: Host | None = None
    storage_card: Storage | None = None
    engine: Engine | None = None

    @property
    def parts(self) -> dict[str, str | None]:
        """Names of the host, the storage and the engine that it was put together with."""
        found = {"host": self.host_card, "storage": self.storage_card, "engine": self.engine}
        return {kind: None if one is None else one.name for kind, one in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(replace(self, host_card=None, storage_card=None, engine=None))
        for part in ("host_card", "storage_card", "engine"):
            del values[part]
        return {**values, "unverified": list(self.unverified)}

    def changed(self, facts: Mapping[str, Fact], **texts: str) -> Device:
        """A device with other facts (`{"storage.latency_s": Fact(…)}`) and other texts: name, title, note, fitted_from.

        Raises ValueError for names that a card cannot have.
        """
        content = self._content()
        for name, fact in facts.items():
            table, _, number = name.rpartition(".")
            (content.setdefault(table, {}) if table else content)[number] = asdict(fact)
        name = texts.pop("name", self.name)
        return make_device(name, {**content, **texts})

    def to_toml(self, path: str | os.PathLike[str] | None = None) -> str:
        """The card as text; written to `path` if given, where it appears whole or not at all."""
        from remoe_sim.util.cards import card_text, write_text

        text = card_text(self._content())
        if path is not None:
            write_text(text, path)
        return text

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"title": self.title, "unified": self.unified}
        content |= {name: getattr(self, name) for name in _TEXTS if getattr(self, name) is not None}
        for name, fact in self.facts.items():
            table, _, number = name.rpartition(".")
            (content.setdefault(table, {}) if table else content)[number] = asdict(fact)
        return content

    def _repr_html_(self) -> str:
        from html import escape

        import pandas as pd

        rows = [{"number": name, **asdict(fact)} for name, fact in self.facts.items()]
        return f"<p>{escape(self.title)}</p>{pd.DataFrame(rows).to_html(index=False)}"

    def __repr__(self) -> str:
        return f"<Device {self.name}: {self.title}>"


def device(name_or_path: str | Path) -> Device:
    """The device of a card: a name that `remoe-sim list devices` shows, or the path of a TOML file.

    Raises ValueError, in one sentence, for unknown names and for a card with something missing, unknown or impossible.
    """
    return make_device(*read_card("device", name_or_path))


def make_device(name: str, card: Mapping[str, Any]) -> Device:
    """The device of what stands in a card. Raises ValueError as `device` does."""
    where = f"device card '{name}'"
    texts = {key: card[key] for key in ("title", *_TEXTS) if key in card}
    if not isinstance(card.get("unified"), bool) or not texts.get("title"):
        raise ValueError(f'{where}: give title = "…" and unified = true or false')
    if any(not isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{where}: {', '.join(texts)} have to be texts")
    kind = texts.get("kind", "phone" if card["unified"] else "cuda")
    if kind not in DEVICE_KINDS:
        raise ValueError(f"{where}: {unknown('kind', kind, DEVICE_KINDS)}")
    numbers = {key: value for key, value in card.items() if key not in (*texts, *LINKS, "unified")}
    found = card_numbers(numbers, NUMBERS, MORE_NUMBERS, where)
    for key in _POSITIVE:
        if key in found and not found[key].value > 0:
            raise ValueError(f"{where}: '{key}' is {found[key].value}; give a number above 0")
    for key in ("efficiency", "overlap_efficiency"):
        if key in found and found[key].value > 1:
            raise ValueError(f"{where}: '{key}' is {found[key].value}; give a share of at most 1")
    if card["unified"] and "host" in card:
        raise ValueError(f"{where}: a device with unified memory has no link from host memory; leave out [host]")
    values: dict[str, Any] = dict.fromkeys((*MORE_NUMBERS, *LINKS)) | {"overlap_efficiency": 1.0}
    for link in LINKS:
        if link in card:
            of_link = card_numbers(card[link], LINK_NUMBERS, MORE_LINK_NUMBERS, f"{where}, [{link}]")
            values[link] = Link(link, **{key: fact.value for key, fact in of_link.items()})
            found |= {f"{link}.{key}": fact for key, fact in of_link.items()}
    values |= {key: fact.value for key, fact in found.items() if "." not in key}
    defaults: dict[str, Any] = {key: texts.get(key) for key in _TEXTS if key.startswith("default_")}
    return Device(
        name=name,
        title=texts["title"],
        unified=card["unified"],
        note=texts.get("note"),
        fitted_from=texts.get("fitted_from"),
        kind=kind,
        unverified=tuple(doubts("device", name, found)),
        facts=found,
        **defaults,
        **values,
    )
