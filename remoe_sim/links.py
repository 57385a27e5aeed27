"""Links between memory levels: PCIe, NVMe, flash. What one read costs, and what many reads at once reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A path for reads: some `lanes` that hold one read each, and a bandwidth that they share.

    A read occupies a lane for `latency_s`, which passes in all lanes at once, and then for its transfer. The link takes
    transfers in the order in which their latencies end and carries one at a time, for bytes / bandwidth; the lane is
    busy with it for bytes / lane_bandwidth where that is given (one lane alone is slower than the link), else as long
    as the link. With `free_lane` and `free_link` the times at which these are free, a read that is issued at `t` is

        begins   = max(max(t, free_lane) + latency_s, free_link)
        free_link = begins + bytes / bandwidth_bytes_per_s
        free_lane = begins + bytes / min(lane_bandwidth_bytes_per_s, bandwidth_bytes_per_s)   (the data are there)

    lanes: how many reads an engine has in flight by default; block_bytes: direct reads cover whole blocks of this size
    (1 where there are no blocks), so `bytes` below are those of the blocks.
    """

    name: str
    latency_s: float
    bandwidth_bytes_per_s: float
    lanes: int
    lane_bandwidth_bytes_per_s: float | None = None
    block_bytes: int = 1

    def __post_init__(self) -> None:
        lane = self.lane_bandwidth_bytes_per_s
        if not (self.latency_s >= 0 and self.bandwidth_bytes_per_s > 0 and (lane is None or lane > 0)):
            raise ValueError(f"link '{self.name}': a bandwidth has to be above 0 and a latency 0 or more")
        if not (_whole(self.lanes) and _whole(self.block_bytes)):
            raise ValueError(f"link '{self.name}': lanes and block_bytes have to be whole numbers from 1")

    def lane_seconds(self, bytes: float) -> float:
        """How long a read of that many bytes occupies its lane when no other is under way."""
        return self.latency_s + bytes / self._lane_bandwidth

    def read_seconds(self, bytes: float, lanes: int | None = None) -> float:
        """Time per read in the long run, when `lanes` (by default the link's) always have the next such read to do.

        max((latency + bytes / lane bandwidth) / lanes, bytes / bandwidth): the lanes take turns until the link is full.
        """
        depth = self.lanes if lanes is None else lanes
        if not _whole(depth):
            raise ValueError(f"link '{self.name}': {depth} lanes are not possible; give a whole number from 1")
        return max(self.lane_seconds(bytes) / depth, bytes / self.bandwidth_bytes_per_s)

    def throughput(self, bytes: float, lanes: int | None = None) -> float:
        """Bytes per second of such reads: bytes / read_seconds, which is

        min(bandwidth, lanes · lane bandwidth / (1 + latency · lane bandwidth / bytes)).
        """
        return bytes / self.read_seconds(bytes, lanes) if bytes else 0.0

    @property
    def _lane_bandwidth(self) -> float:
        return min(self.lane_bandwidth_bytes_per_s or self.bandwidth_bytes_per_s, self.bandwidth_bytes_per_s)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
