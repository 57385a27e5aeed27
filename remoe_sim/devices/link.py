"""Links between memories, and what the cards of machines have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.util.cards import Fact, facts
from remoe_sim.util.display import Shown

if TYPE_CHECKING:
    import pandas as pd

LINK_NUMBERS = ("latency_s", "bandwidth_bytes_per_s", "lanes", "block_bytes")
MORE_LINK_NUMBERS = ("overhead_s", "lane_bandwidth_bytes_per_s")
DEVICE_KINDS = ("cuda", "rocm", "metal", "jetson", "phone", "cpu")
MOST = 1e18  # of any number: what a kernel counts in
SHOWN = {"assumed": "assumed, not measured", "unverified": "not verified"}


@dataclass(frozen=True, repr=False)
class Link(Shown):
    """A path for reads: some `lanes` that hold one read each, and a bandwidth that they share.

    Lanes take turns. A read waits for its lane, then for `latency_s`, which passes in all lanes at once, then for the
    transfers before it; its own takes overhead_s + bytes / bandwidth of the link, and no less than bytes / lane
    bandwidth where one lane alone is slower than the link. With `free_lane` and `free_link` the times at which these
    are free, a read that is asked for at `t` is done with

        ready     = max(t, free_lane) + latency_s
        free_link = max(ready, free_link) + overhead_s + bytes / bandwidth_bytes_per_s
        free_lane = max(free_link, ready + bytes / lane_bandwidth_bytes_per_s)            (the data are there)

    lanes: how many reads an engine has in flight by default; block_bytes: direct reads cover whole blocks of this size
    (1 where there are no blocks), so `bytes` below are those of the blocks.
    """

    name: str
    latency_s: float
    bandwidth_bytes_per_s: float
    lanes: int
    lane_bandwidth_bytes_per_s: float | None = None
    block_bytes: int = 1
    overhead_s: float = 0.0

    def to_frame(self) -> pd.DataFrame:
        """One row."""
        import pandas as pd

        return pd.DataFrame([asdict(self)])

    def __post_init__(self) -> None:
        lane = self.lane_bandwidth_bytes_per_s
        if not (
            min(self.latency_s, self.overhead_s) >= 0 and self.bandwidth_bytes_per_s > 0 and (lane is None or lane > 0)
        ):
            raise ValueError(f"link '{self.name}': a bandwidth has to be above 0, a time 0 or more")
        if not (_whole(self.lanes) and _whole(self.block_bytes)):
            raise ValueError(f"link '{self.name}': lanes and block_bytes have to be whole numbers from 1")

    def lane_seconds(self, bytes: float) -> float:
        """How long a read of that many bytes occupies its lane when no other is under way."""
        alone = bytes / (self.lane_bandwidth_bytes_per_s or self.bandwidth_bytes_per_s)
        return self.latency_s + max(alone, self._link_seconds(bytes))

    def read_seconds(self, bytes: float, lanes: int | None = None) -> float:
        """Time per read in the long run, when `lanes` (by default the link's) always have the next such read to do.

        max(lane_seconds / lanes, overhead + bytes / bandwidth): the lanes work side by side until the link is full.
        """
        depth = self.lanes if lanes is None else lanes
        if not _whole(depth):
            raise ValueError(f"link '{self.name}': {depth} lanes are not possible; give a whole number from 1")
        return max(self.lane_seconds(bytes) / depth, self._link_seconds(bytes))

    def throughput(self, bytes: float, lanes: int | None = None) -> float:
        """Bytes per second of such reads, bytes / read_seconds.

        A full link reaches bandwidth / (1 + overhead · bandwidth / bytes); few lanes reach less.
        """
        return bytes / self.read_seconds(bytes, lanes) if bytes else 0.0

    def _link_seconds(self, bytes: float) -> float:
        return self.overhead_s + bytes / self.bandwidth_bytes_per_s


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


@dataclass(frozen=True, repr=False)
class Component:
    """What the hosts, storage and engines of cards have in common."""

    name: str
    title: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.title}>"


def card_title(card: Mapping[str, Any], where: str) -> str:
    """The title of a card; ValueError if it has none."""
    title = card.get("title")
    if not title or not isinstance(title, str):
        raise ValueError(f'{where}: give title = "…"')
    return title


def card_numbers(table: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> dict[str, Fact]:
    """The numbers of a table of a card; ValueError for what is missing, unknown, no number or too large."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} is no table; give its numbers as {', '.join(required)}")
    found = facts(table, required, optional, where=where)
    for key, fact in found.items():
        if isinstance(fact.value, bool) or not isinstance(fact.value, (int, float)):
            raise ValueError(f"{where}: '{key}' is {fact.value!r}; give a number")
        if fact.value > MOST:
            raise ValueError(f"{where}: '{key}' is {fact.value!r}; give a number up to {MOST:g}")
    return found


def doubts(kind: str, name: str, found: Mapping[str, Fact]) -> list[str]:
    """A sentence for each kind of number that nobody has checked."""
    sentences = []
    for status, words in SHOWN.items():
        given = [f"{key} {fact.value:g}" for key, fact in found.items() if fact.status == status]
        if given:
            sentences.append(f"{kind} {name}: {words}: {', '.join(given)}")
    return sentences
