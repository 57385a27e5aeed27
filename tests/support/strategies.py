"""Random traces: the rows that the oracle replays, and the equal `remoe_sim.Trace`."""

from collections import Counter
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from numba import config

from remoe_sim import Decisions, InMemory, Model, Trace
from tests.oracle.naive import DECODE, PREFILL, Row

MOST_ROWS = 12
POOL = 12  # how many of a layer's experts are ever chosen
LARGE = (255, 256, 300, 512)  # on both sides of what fits a byte
CHOICES = {
    "scope": ("layer", "global"),
    "admission": ("mandatory", "bypass"),
    "order": ("set", "sequential"),
    "reset": ("never", "request"),
    "phase": ("all", "decode", "prefill"),
    "warmup": (0, 0, 1, 3),
}


def examples(count, without_jit=None):
    """Settings of a property test: the same examples every time, fewer where kernels are interpreted."""
    few = max(count // 8, 5) if without_jit is None else without_jit
    return settings(
        max_examples=few if config.DISABLE_JIT else count,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=[Phase.generate, Phase.shrink],  # explaining takes longer than finding
    )


@dataclass(frozen=True)
class Shape:
    """Of a model: per MoE layer the experts, the slots, and the bytes of an expert (or None)."""

    experts: tuple
    top_k: tuple
    sizes: tuple | None


@dataclass(frozen=True)
class Case:
    """A trace twice, and what the cache starts with: a trace, and its entries for the oracle, most used first."""

    rows: list
    trace: Trace
    shape: Shape
    preload: Trace | None = None
    entries: tuple = ()


def choices(*names):
    """The named arguments of a replay."""
    return st.fixed_dictionaries({name: st.sampled_from(CHOICES[name]) for name in names})


@st.composite
def shapes(draw, layers=4, large=True, sized=None):
    """Layers that may differ in everything; `sized`: whether sizes are known, or either."""
    top_k = draw(st.lists(st.integers(1, 4), min_size=1, max_size=layers))
    size = st.sampled_from(LARGE) if large and draw(st.integers(0, 7)) == 7 else st.nothing()
    experts = [draw(st.integers(k, 12) | size) for k in top_k]
    sizes = None
    if sized or (sized is None and draw(st.booleans())):
        one_size = draw(st.booleans())
        sizes = (draw(st.integers(1, 5)),) * len(top_k) if one_size else tuple(draw(st.integers(1, 5)) for _ in top_k)
    return Shape(tuple(experts), tuple(top_k), sizes)


def decisions(experts, k):
    """k different experts of POOL, at both ends of the ids; some slots dropped, sometimes no decision at all."""
    chosen = st.lists(st.integers(0, min(experts, POOL) - 1), min_size=k, max_size=k, unique=True)
    return st.builds(_decision, st.just(experts), chosen, st.sampled_from((0, 0, 0, 0, 0, 0, 1, 2, 5, None)))


def _decision(experts, chosen, dropped):
    if dropped is None:
        return None
    ids = [expert if expert % 2 or experts <= POOL else experts - 1 - expert for expert in chosen]
    return [None if dropped >> slot & 1 else expert for slot, expert in enumerate(ids)]


@st.composite
def token_rows(draw, shape, most=MOST_ROWS):
    """Rows in execution order: requests one after the other or mixed, steps of several tokens, both phases."""
    layers = [decisions(*layer) for layer in zip(shape.experts, shape.top_k, strict=True)]
    gap, turn = st.sampled_from((1, 1, 0, 0, 3)), st.sampled_from((0, 0, 0, 1, 2))
    phase = st.sampled_from((DECODE, DECODE, PREFILL))
    least = draw(st.sampled_from((0, most // 2, most // 2, most)))
    drawn = draw(st.lists(st.tuples(gap, turn, phase, st.tuples(*layers)), min_size=least, max_size=most))
    mixed = draw(st.booleans())
    rows, step, request, seen = [], 4, 0, Counter()
    for ahead, by, kind, chosen in drawn:
        request = by if mixed else request + by
        step += ahead or (not mixed and by > 0)
        name = 90 - 7 * request  # ids need neither ascend nor follow each other
        rows.append(Row(name, seen[name], step, kind, list(chosen)))
        seen[name] += 1
    return rows


@st.composite
def with_ahead(draw, case, most):
    """A case whose trace has look-ahead choices for `most` layers, and these: (layer, distance) -> of each row."""
    shape = case.shape
    drawn = {
        (layer, distance): draw(
            st.lists(decisions(shape.experts[layer + distance], shape.top_k[layer + distance]),
                     min_size=len(case.rows), max_size=len(case.rows))
        )
        for distance in range(1, most + 1)
        for layer in range(len(shape.top_k) - distance)
    }  # fmt: skip
    tables = [
        [
            layer_of(drawn[layer, distance], shape.top_k[layer + distance]) if (layer, distance) in drawn else None
            for layer in range(len(shape.top_k))
        ]
        for distance in range(1, most + 1)
    ]
    source = InMemory(case.trace.source.layers, all_ahead=tables)
    return replace(case, trace=replace(case.trace, source=source)), drawn


@st.composite
def cases(draw, preload=True, layers=4, large=True, sized=None, most=MOST_ROWS):
    shape = draw(shapes(layers, large, sized))
    rows = draw(token_rows(shape, most))
    case = Case(rows, trace_of(rows, shape), shape)
    if not (preload and draw(st.booleans())):
        return case
    other = draw(token_rows(shape, 4))
    return Case(rows, case.trace, shape, trace_of(other, shape), most_used(other))


def most_used(rows):
    """Entries (layer, expert) that were chosen, most often first, ties by layer and lower id."""
    uses = Counter(
        (layer, expert)
        for row in rows
        for layer, decision in enumerate(row.decisions)
        for expert in decision or []
        if expert is not None
    )
    return tuple(sorted(uses, key=lambda entry: (-uses[entry], entry)))


def trace_of(rows, shape):
    """The equal trace in memory; masks only where there is something to mask."""
    layers = []
    for layer, k in enumerate(shape.top_k):
        layers.append(layer_of([row.decisions[layer] for row in rows], k))
    columns = [np.array([getattr(row, name) for row in rows], np.int32) for name in ("request", "position", "step")]
    phase = np.array([row.phase == DECODE for row in rows], np.uint8)
    numbers = tuple(range(1, 2 * len(layers), 2))  # the model's own, with dense layers between
    model = Model(shape.experts, shape.top_k, "random", expert_bytes=shape.sizes)
    return Trace(*columns, phase, numbers, model, InMemory(layers))


def layer_of(each, k):
    """Decisions of lists of k experts, None for a slot that is dropped and for a token that is not routed."""
    chosen = [decision or [None] * k for decision in each]
    ids = np.array([[expert or 0 for expert in decision] for decision in chosen], np.uint16).reshape(-1, k)
    valid = np.array([[expert is not None for expert in decision] for decision in chosen], bool).reshape(-1, k)
    routed = np.array([decision is not None for decision in each], bool)
    return Decisions(ids, None if valid.all() else valid, None if routed.all() else routed)
