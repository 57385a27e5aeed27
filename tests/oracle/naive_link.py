"""Reads over a link, one after another, by the rules in the docstring of `Link`."""


def finish(link, sizes):
    """When the data of the last of these reads are there; all are asked for at time 0."""
    ends, busy_until = [], 0.0
    for size in sizes:
        ready = link.latency_s + (ends[-link.lanes] if len(ends) >= link.lanes else 0.0)
        busy_until = max(ready, busy_until) + link.overhead_s + size / link.bandwidth_bytes_per_s
        alone = 0.0 if link.lane_bandwidth_bytes_per_s is None else size / link.lane_bandwidth_bytes_per_s
        ends.append(max(busy_until, ready + alone))
    return max(ends)
