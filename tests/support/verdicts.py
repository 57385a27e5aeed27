"""Questions of a verdict, and traces of one layer."""

import hypothesis.strategies as st

from tests.oracle.naive import DECODE, Row
from tests.support.strategies import Shape, cases, choices, trace_of

SETTINGS = ("scope", "admission", "order", "phase", "warmup")


def one_layer(experts, among=8):
    """One token per step, one expert each."""
    rows = [Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate(experts)]
    return trace_of(rows, Shape((among,), (1,), (10,)))


def limits(case):
    counts = st.fixed_dictionaries({"cache": st.integers(0, 14)})
    if case.shape.sizes is None:
        return counts
    total = sum(size * experts for size, experts in zip(case.shape.sizes, case.shape.experts, strict=True))
    return counts | st.fixed_dictionaries({"budget": st.integers(0, total + 2)})


@st.composite
def questions(draw, **shape):
    case = draw(cases(**shape))
    return case, draw(choices(*SETTINGS)), draw(limits(case))
