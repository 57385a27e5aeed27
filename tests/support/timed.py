"""Traces whose times can be told, and plans of them."""

from hypothesis import strategies as st

from tests.oracle.naive import DECODE, Row
from tests.support.strategies import Shape, token_rows, trace_of


def with_dense(trace, size=1000):
    """The same trace, whose dense layers have a size, so that it needs no card."""
    from dataclasses import replace

    layers = trace.layer_numbers[-1] + 1
    return replace(trace, model=replace(trace.model, dense_bytes=(size,) * layers, layers=layers))


def sizes(point):
    return next(iter(point.capacity.values()))


@st.composite
def planned(draw):
    """A trace that ends in a decode token, of layers with as many experts each, and one to start with."""
    experts, layers = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    top_k = tuple(draw(st.integers(1, min(4, experts))) for _ in range(layers))
    sizes = draw(st.lists(st.integers(1, 5), min_size=layers, max_size=layers))
    shape = Shape((experts,) * layers, top_k, tuple(1000 * size for size in sizes))
    rows, other = draw(token_rows(shape)), draw(token_rows(shape, 4))
    last = [list(range(k)) for k in top_k]
    rows.append(Row(1000, 0, rows[-1].step + 1 if rows else 0, DECODE, last))
    return with_dense(trace_of(rows, shape)), draw(st.none() | st.just(trace_of(other, shape)))
