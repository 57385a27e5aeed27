"""The oracle's answers for a random case, and the library's in the same words."""

from contextlib import contextmanager
from unittest.mock import patch

from tests.oracle import naive

POLICIES = ("lru", "lfu", "belady", "fifo", "lfu-forget")


def expected(case, policy, arguments, cache=None, budget=None):
    """naive.replay of a case under the arguments of remoe_sim.replay."""
    sizes, layers = case.shape.sizes, len(case.shape.top_k)
    rest = {"scope": "layer", "admission": "mandatory", "preload": case.entries, **arguments}
    if rest["scope"] == "layer":
        # the oracle's limits are in bytes when it is told sizes
        shares = [cache * size for size in sizes or [1] * layers] if budget is None else [budget // layers] * layers
        return naive.replay(case.rows, policy, limit=shares, sizes=sizes, **rest)
    if budget is not None or sizes is None:
        return naive.replay(case.rows, policy, limit=cache if budget is None else budget, sizes=sizes, **rest)
    with observed() as groups:
        counts = naive.replay(case.rows, policy, limit=cache, **rest)
    return counts | weighed(groups, sizes, rest["admission"])


@contextmanager
def observed():
    """A list that receives (event, residents before, residents after) of every group that the oracle replays."""
    groups = []

    def spying(access):
        def spy(order, resident, event, *rest):
            before, after = set(resident), access(order, resident, event, *rest)
            groups.append((event, before, set(after)))
            return after

        return spy

    keep, touch = spying(naive.keep_best), spying(naive.touch_each)
    with patch.object(naive, "keep_best", keep), patch.object(naive, "touch_each", touch):
        yield groups


def weighed(groups, sizes, admission):
    """What of naive.replay's answer depends on sizes, for one cache whose limit counts experts."""

    def load(entries):
        return sum(sizes[layer] for layer, _ in entries)

    running = [{*event.entries, *(after if admission == "mandatory" else before)} for event, before, after in groups]
    answer = {"peak_resident": max(map(load, running), default=0)}
    for phase in (naive.PREFILL, naive.DECODE):
        lookups = [(entry, before) for event, before, _ in groups for entry in event.kind if event.kind[entry] == phase]
        missed = [entry for entry, before in lookups if entry not in before]
        answer[phase] = {"lookups": len(lookups), "hits": len(lookups) - len(missed), "bytes_read": load(missed)}
    return answer


def counts_of(result):
    """A ReplayResult in the oracle's words."""
    names = ("lookups", "hits", "misses", "cold_misses", "capacity_misses", "evictions")
    answer = {name: getattr(result, name) for name in names} | {"peak_resident": result.peak_resident_bytes}
    for phase in (naive.PREFILL, naive.DECODE):
        counts = getattr(result, phase)
        answer[phase] = {"lookups": counts.lookups, "hits": counts.hits, "bytes_read": counts.bytes_read}
    return answer


def assert_equal(result, theirs):
    """The library and the oracle agree in every count."""
    theirs = {name: value for name, value in theirs.items() if name != "missed"}
    if result.peak_resident_bytes is None:  # sizes are unknown; the oracle then counts entries
        theirs["peak_resident"] = None
    assert counts_of(result) == theirs, result.policy
