"""Replays of random traces, in the oracle's words."""

import hypothesis.strategies as st
import pytest
from hypothesis import event

import remoe_sim
from tests.oracle.oracle import expected
from tests.support.strategies import CHOICES, cases, choices


def limits(case):
    """Limits from none to more than everything, also below the smallest entry and the smallest group."""
    counts = st.fixed_dictionaries({"cache": st.integers(0, 14) | st.just(5000)})
    if case.shape.sizes is None:
        return counts
    total = sum(size * experts for size, experts in zip(case.shape.sizes, case.shape.experts, strict=True))
    return counts | st.fixed_dictionaries({"budget": st.integers(0, 40) | st.integers(0, total + 2)})


@st.composite
def replays(draw, **shape):
    case = draw(cases(**shape))
    return case, draw(choices(*CHOICES)), draw(limits(case))


def replay(case, policies, arguments, limit):
    """The library's report, or None where both refuse to empty the cache between requests that interleave."""
    try:
        return remoe_sim.replay(case.trace, policy=policies, preload=case.preload, **arguments, **limit)
    except remoe_sim.TraceError:
        assert arguments["reset"] == "request"
        with pytest.raises(ValueError, match="interleave"):
            expected(case, "lru", arguments, **limit)
        event("refused")
