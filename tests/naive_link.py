"""Reads over a link, one after another, by the rules in the docstring of `Link`."""


def finish(link, sizes):
    """When the data of the last of these reads are there; all are issued at time 0, to the lane that is free first."""
    shared = link.bandwidth_bytes_per_s
    own = shared if link.lane_bandwidth_bytes_per_s is None else min(shared, link.lane_bandwidth_bytes_per_s)
    lanes, free = [0.0] * link.lanes, 0.0
    for size in sizes:
        lane = lanes.index(min(lanes))
        begins = max(lanes[lane] + link.latency_s, free)
        free = begins + size / shared
        lanes[lane] = begins + size / own
    return max(lanes)
