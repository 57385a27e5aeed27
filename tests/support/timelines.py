"""Random timelines, and their comparison with the twin."""

import numpy as np
import pytest
from hypothesis import strategies as st

from remoe_sim.kernels import timeline as kernels
from remoe_sim.kernels.timeline import LAYER, NONE, PREFETCH
from tests.oracle import naive_timeline

SECONDS = st.floats(0, 1e-2)
CPU = st.lists(st.sampled_from((0.0, 0.3, 0.7, 1.0)), min_size=1, max_size=7)


@st.composite
def cases(draw, exact=False):
    """What `run_timeline` reads, by name; exact: what was read ahead is what is missing."""
    steps, layers = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    dense = [draw(st.booleans()) for _ in range(layers)]
    dense[draw(st.integers(0, layers - 1))] = False
    moe_of = np.where(dense, -1, np.cumsum(~np.array(dense)) - 1).astype(np.int32)
    columns, tensors = int((moe_of >= 0).sum()), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    needed = rng.integers(0, 5, (steps, columns))
    missing = rng.integers(0, needed + 1)
    host = draw(st.booleans())
    far = rng.integers(0, missing + 1) if host else missing
    storage = bool(far.any()) or not host or draw(st.booleans())
    scale = draw(SECONDS)
    early = rng.integers(0, 4, (steps, columns)) * (not exact)
    return {
        "tokens": rng.integers(1, 9, steps), "kv_tokens": rng.integers(0, 2000, steps),
        "needed": needed.astype(np.uint16), "far": far.astype(np.uint16), "near": (missing - far).astype(np.uint16),
        "early": early.astype(np.uint16), "used": rng.integers(0, early + 1).astype(np.uint16),
        "depth": draw(st.integers(1, columns)), "guessed": draw(st.booleans()),
        "overlap": draw(st.sampled_from((NONE, LAYER, PREFETCH))),
        "at_once": draw(st.sampled_from((0.0, 0.4, 1.0))), "cpu": np.zeros((steps, columns), np.uint16),
        "moe_of": moe_of,
        "layer_costs": rng.random((layers, 4)) * [scale, scale / 1000, scale / 5, scale],
        "head_costs": rng.random(3) * scale, "expert_costs": rng.random((columns, 7)) * scale,
        "far_sizes": np.ceil(rng.random((columns, tensors)) * 300),
        "near_sizes": np.ceil(rng.random((columns, tensors)) * 300),
        "link": rng.random((2, 4)) * [draw(SECONDS), 1e-3, draw(SECONDS) / 100, 1e-4],
        "lanes": np.array([rng.integers(1, 5) if storage else 0, rng.integers(1, 5) if host else 0]),
    }  # fmt: skip


def run(case, events=None, **changes):
    """(times, parts, late) of a case, with some arguments changed."""
    case = {**case, **changes}
    steps = case["tokens"].size
    times, parts, late = np.zeros(steps), np.zeros((steps, 5)), np.zeros(case["needed"].shape, np.int64)
    load = kernels.Load(*(case[name] for name in kernels.Load._fields))
    mode = kernels.Mode(*(case[name] for name in kernels.Mode._fields))
    seconds = kernels.Seconds(*(case[name] for name in ("moe_of", "layer_costs", "head_costs", "expert_costs")))
    wires = kernels.Wires(*(case[name] for name in ("far_sizes", "near_sizes", "link", "lanes")))
    journal = None if events is None else kernels.Journal(*events)
    kernels.run_timeline(load, mode, seconds, wires, kernels.Filled(times, parts, late), journal)
    return times, parts, late


def given_to_cpu(case, numbers):
    """The case with some of its resident or missing experts given to the CPU, as random `numbers` from 0 to 1 say."""
    free = case["needed"] - case["far"]
    cpu = np.floor(np.resize(numbers, free.shape) * (free + 0.999)).astype(np.uint16)
    return {**case, "cpu": cpu, "near": np.minimum(case["near"], free - cpu).astype(np.uint16)}


def assert_timeline(case, numbers):
    """Every time and every cause equals the twin's."""
    case = given_to_cpu(case, numbers)
    times, parts, late = run(case)
    for step, (seconds, causes, waited) in enumerate(naive_timeline.timeline(**case)):
        assert times[step] == pytest.approx(seconds, rel=1e-9, abs=1e-12)
        assert parts[step] == pytest.approx(list(causes.values()), rel=1e-9, abs=1e-12)
        assert late[step].tolist() == waited
    assert parts.sum(axis=1) == pytest.approx(times)
