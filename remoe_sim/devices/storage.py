"""Storage: where experts are read from that no memory holds, and the cards that describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoe_sim.devices.link import LINK_NUMBERS, MORE_LINK_NUMBERS, Component, Link, card_numbers, card_title, doubts
from remoe_sim.util.cards import Fact, read_card

_MAPPED = ("fault_latency_s", "read_ahead_bytes", "page_bytes")


@dataclass(frozen=True, repr=False)
class Storage(Component):
    """A drive, in SI units.

    link: how reads go that an engine asks for
    fault_latency_s: of a page fault of a mapped file, until its read is asked for; read_ahead_bytes: what one fault
    reads at most; page_bytes: of the system. None where they are not known.
    """

    link: Link
    fault_latency_s: float | None
    read_ahead_bytes: int | None
    page_bytes: int | None
    note: str | None
    unverified: tuple[str, ...]
    facts: dict[str, Fact]


def storage(name_or_path: str | Path) -> Storage:
    """Return the storage of a card: a name that `remoe-sim list storage` shows, or the path of a TOML file.

    Raises ValueError, in one sentence, for unknown names and for a card with something missing, unknown or impossible.
    """
    return make_storage(*read_card("storage", name_or_path))


def make_storage(name: str, card: Mapping[str, Any]) -> Storage:
    """Return the storage of what stands in a card. Raises ValueError as `storage` does."""
    where = f"storage card '{name}'"
    rest = {key: value for key, value in card.items() if key not in ("title", "note")}
    found = card_numbers(rest, LINK_NUMBERS, (*MORE_LINK_NUMBERS, *_MAPPED), where)
    title = card_title(card, where)
    for key in _MAPPED[1:]:
        if key in found and not (isinstance(found[key].value, int) and found[key].value >= 1):
            raise ValueError(f"{where}: '{key}' is {found[key].value}; give a whole number from 1")
    of_link = {key: fact.value for key, fact in found.items() if key not in _MAPPED}
    mapped: dict[str, Any] = {key: found[key].value if key in found else None for key in _MAPPED}
    return Storage(
        name=name, title=title, note=card.get("note"), link=Link("storage", **of_link),
        unverified=tuple(doubts("storage", name, found)), facts=found, **mapped,
    )  # fmt: skip
