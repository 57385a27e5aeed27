"""Any policy under caps of admission: which misses may enter is decided before the policy is asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from remoe_sim.kernels.arguments import GroupedAccesses, Stock, Written
from remoe_sim.policy.base import Policy
from remoe_sim.policy.drive import drive, keys_of, sortable, state_of
from remoe_sim.policy.guard import run_told
from remoe_sim.policy.outcome import Outcome, Rules, empty_outcome
from remoe_sim.policy.stack import StackPolicy, all_keys
from remoe_sim.trace.accesses import Stream
from remoe_sim.util.arrays import Longs

UNLIMITED = 2**62


def replay_capped(policy: Policy, stream: Stream, limit: int, rules: Rules) -> Outcome:
    """Replay one cache at one limit under `rules.admit_after` and `rules.inserts`."""
    from remoe_sim.kernels.capped import NO_VICTIM, Caps, capped_replay

    stream = stream.whole
    hit, resting, running = empty_outcome(stream)
    entries = stream.entries.astype(np.int32, copy=False)
    accesses = GroupedAccesses(stream.offsets, entries, stream.steps, stream.epochs)
    stock, written = Stock(stream.sizes, stream.weights, rules.preload.copy()), Written(hit, resting, running)
    keys, starts = sortable(keys_of(policy, stream)), np.zeros((1, stream.n_entries), np.int64)
    if isinstance(policy, StackPolicy) and rules.preload.size:
        starts = sortable(all_keys(policy, stream, rules)[1])
    inserts, turns = UNLIMITED if rules.inserts is None else rules.inserts, _turns(stream)

    def run(plain: bool) -> Any:
        loop, (*verbs, trims) = drive(capped_replay, policy, [stream], plain)
        caps = Caps(int(limit), rules.mandatory, turns, keys, starts, rules.admit_after, inserts, trims)
        state = state_of(policy, stream)
        return loop(accesses, stock, caps, state, *verbs, written)

    evictions = int(run_told(policy, run))
    if evictions == NO_VICTIM:
        raise ValueError(
            f"policy '{policy.label or policy.name}' chose a victim that is not resident, or is protected; "
            "correct its victim()"
        )
    return Outcome(hit, evictions, resting, running)


def _turns(stream: Stream) -> Longs:
    """int64[groups]: a number for the layer and step of each group; none of them is empty."""
    first = stream.entries[stream.offsets[:-1]].astype(np.int64)
    layers = np.searchsorted(stream.layer_starts, first, side="right")
    return stream.steps.astype(np.int64) * (stream.layer_starts.size + 1) + layers
