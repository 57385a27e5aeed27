"""Pinned experts of random traces, and their comparison with the oracle."""

import hypothesis.strategies as st
from hypothesis import assume

import remoe_sim
from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, interleaved
from tests.oracle.oracle import POLICIES
from tests.support.strategies import CHOICES, POOL, cases, choices


@st.composite
def pinnings(draw):
    """A case, arguments, pinned entries, and how many entries the cache holds beside them."""
    case, arguments = draw(cases(large=False)), draw(choices(*CHOICES))
    rows = [row for row in case.rows if arguments["phase"] in ("all", row.phase)]
    assume(not (arguments["reset"] == "request" and interleaved(rows)))
    entries = [(layer, expert) for layer, most in enumerate(case.shape.experts) for expert in range(min(most, POOL))]
    pinned = draw(st.lists(st.sampled_from(entries), max_size=6, unique=True))
    return case, arguments, frozenset(pinned), draw(st.integers(0, 8)), draw(st.booleans())


def assert_pinned(drawn):
    """Every count equals the oracle's; the policies."""
    case, arguments, pinned, free, by_bytes = drawn
    layers = range(len(case.shape.top_k))
    sizes = case.shape.sizes or (1,) * len(layers)
    held = sum(sizes[layer] for layer, _ in pinned)
    taken = [sum(layer == index for layer, _ in pinned) for index in layers]
    if arguments["scope"] == "layer":
        limit = {"cache": max(taken) + free}
        left, sized = [(limit["cache"] - n) * size for n, size in zip(taken, sizes, strict=True)], case.shape.sizes
    elif by_bytes and case.shape.sizes:
        limit, left, sized = {"budget": held + free}, free, sizes
    else:
        limit, left, sized = {"cache": len(pinned) + free}, free, None

    pin = {case.trace.layer_numbers[index]: [expert for layer, expert in pinned if layer == index] for index in layers}
    report = remoe_sim.replay(case.trace, policy=POLICIES, preload=case.preload, pin=pin, **arguments, **limit)

    preload = [entry for entry in case.entries if entry not in pinned]
    grouping = {name: arguments[name] for name in ("order", "reset", "phase", "warmup")}
    always = [
        event.kind[entry] for event in naive.events(case.rows, **grouping) for entry in event.entries if entry in pinned
    ]
    for result in report:
        theirs = naive.replay(
            case.rows, result.policy, limit=left, sizes=sized, preload=preload, pinned=pinned, **arguments
        )
        for phase in (PREFILL, DECODE):
            mine = getattr(result, phase)
            assert mine.lookups == theirs[phase]["lookups"] + always.count(phase)
            assert mine.hits == theirs[phase]["hits"] + always.count(phase)
        assert (result.cold_misses, result.evictions) == (theirs["cold_misses"], theirs["evictions"])
        if sized and result.lookups:
            assert result.peak_resident_bytes == theirs["peak_resident"] + held
    return POLICIES
