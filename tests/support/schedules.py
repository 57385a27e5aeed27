"""Traces and requests to schedule, and the comparison with the twin."""

import numpy as np

import remoe_sim
from remoe_sim.trace import PHASES
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.naive_schedule import accepted_drafts, rescheduled, schedule
from tests.support.strategies import Shape, trace_of


def rows_of(trace):
    """A trace as the rows that the oracle replays."""
    layers = [trace.decisions(index) for index in range(trace.moe_layers)]
    rows = []
    for at in range(trace.tokens):
        decisions = []
        for layer in layers:
            slots = range(layer.experts.shape[1])
            there = [layer.valid is None or bool(layer.valid[at, slot]) for slot in slots]
            decision = [int(layer.experts[at, slot]) if there[slot] else None for slot in slots]
            decisions.append(decision if layer.routed is None or layer.routed[at] else None)
        columns = [int(getattr(trace, name)[at]) for name in ("request", "position", "step")]
        rows.append(Row(*columns, PHASES[trace.phase[at]], decisions))
    return rows


def requests(*lengths):
    """A trace of requests one after the other, with so many prompt and decode tokens each."""
    rows, step = [], -1
    for request, (prompt, decode) in enumerate(lengths):
        for position in range(prompt + decode):
            step += position == 0 or position >= prompt
            phase = DECODE if position >= prompt else PREFILL
            rows.append(Row(request, position, step, phase, [[position % 32]]))
    return trace_of(rows, Shape((32,), (1,), (10,)))


def both(case, given):
    """The rows after scheduling, by the twin and by the library."""
    accept = given["accept"] if given["draft"] else None
    accepted = None if accept is None else accepted_drafts(len(case.rows), given["draft"], accept, given["seed"])
    arrival = list(dict.fromkeys(row.request for row in case.rows))
    if given["random"]:
        places = np.random.default_rng([given["seed"], 0]).permutation(len(arrival)).tolist()
        arrival = [arrival[places.index(place)] for place in range(len(arrival))]
    steps = schedule(case.rows, given["size"], given["chunk"], given["draft"], accepted, arrival)
    order = "random" if given["random"] else "trace"
    scheduled = remoe_sim.batch(case.trace, given["size"], given["chunk"], given["draft"], accept, order, given["seed"])
    return rescheduled(case.rows, steps), scheduled
