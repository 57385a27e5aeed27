"""Traces of few tokens: one, none of decode, one expert per token."""

import numpy as np

from remoe_sim.trace import Decisions, InMemory, Model, Trace
from tests.oracle.naive import DECODE, PREFILL, Row


def trace_of(rows, experts, top_k, layer_numbers=None, **more):
    """A trace in memory; experts and top_k per layer."""
    layers = []
    for layer, k in enumerate(top_k):
        ids, valid, routed = (
            np.zeros((len(rows), k), np.uint16),
            np.ones((len(rows), k), bool),
            np.ones(len(rows), bool),
        )
        for row, token in enumerate(rows):
            decision = token.decisions[layer]
            routed[row] = decision is not None
            for slot, expert in enumerate(decision or [None] * k):
                valid[row, slot] = expert is not None
                ids[row, slot] = expert or 0
        whole, everywhere = bool(valid.all()), bool(routed.all())
        layers.append(Decisions(ids, None if whole else valid, None if everywhere else routed))
    columns = [np.array([getattr(row, name) for row in rows], np.int32) for name in ("request", "position", "step")]
    phase = np.array([row.phase == DECODE for row in rows], np.uint8)
    numbers = tuple(range(len(top_k))) if layer_numbers is None else layer_numbers
    return Trace(*columns, phase, numbers, Model(tuple(experts), tuple(top_k), **more), InMemory(layers))


def tokens(decisions, request=0, start=0, phase=DECODE):
    """Rows of one layer and one request, a step each."""
    return [Row(request, start + at, start + at, phase, [chosen]) for at, chosen in enumerate(decisions)]


EMPTY = ([], [4], [2])
ONE_TOKEN = (tokens([[3, 1]]), [4], [2])
NO_DECODE = (tokens([[0, 1], [0, 1]], phase=PREFILL), [2], [2])
K_ONE = (tokens([[0], [0], [1], [1], [1]]), [1024], [1])
