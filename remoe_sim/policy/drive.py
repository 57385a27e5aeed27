"""Any policy in a loop that decides itself what is loaded: slot policies by their verbs, stack policies by keys.

The loops of `kernels.tiers` and `kernels.prefetch` take verbs over a state array. A stack policy gets those of
`kernels.keyed`, and the loop writes the key of each entry before it is touched or inserted.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy.base import Policy
from remoe_sim.policy.slot import VERBS, CompiledSlotPolicy, SlotPolicy, SlotReplay, plain_verbs
from remoe_sim.policy.stack import StackPolicy, checked_keys
from remoe_sim.trace.accesses import DECODE_LOOKUP, Stream

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Longs


def check_drivable(policy: Policy, what: str) -> None:
    """ValueError unless the policy can be driven by verbs; `what` would drive it, such as "prefetch"."""
    own: Any = type(policy)
    by_verbs = isinstance(policy, SlotReplay) and own.replay is SlotReplay.replay
    by_keys = isinstance(policy, StackPolicy) and own.replay is StackPolicy.replay and own.keys is not StackPolicy.keys
    if policy.needs_training or not (by_verbs or by_keys):
        raise ValueError(
            f"policy '{policy.label}' has a replay of its own, which {what} cannot drive; take a policy that ranks by "
            "keys or names victims, such as lru or lfu-forget"
        )


def keys_of(policy: Policy, stream: Stream) -> npt.NDArray[Any]:
    """int64 or float64[N]: keys of a stack policy after each lookup, smaller is kept better; int64[0] for others."""
    if not isinstance(policy, StackPolicy):
        return np.zeros(0, np.int64)
    return checked_keys(policy.label or policy.name, policy.keys(stream), stream.entries.size)


def sortable(keys: npt.NDArray[Any]) -> Longs:
    """int64 in the same order: fractions by their bits, of which those of negative ones are turned around."""
    if not np.issubdtype(keys.dtype, np.floating):
        return np.ascontiguousarray(keys, np.int64)
    bits: Longs = (np.ascontiguousarray(keys, np.float64) + 0.0).view(np.int64)  # -0.0 becomes 0.0
    return np.where(bits < 0, bits ^ np.iinfo(np.int64).max, bits)


def recency_of(policy: Policy) -> int:
    """1 if a stack policy orders by recency alone and keeps the later, -1 if it keeps the earlier, else 0.

    Found out by a short stream in which experts return after different times and unequally often.
    """
    if not isinstance(policy, StackPolicy):
        return 0
    entries = np.array([0, 1, 0, 2, 2, 1, 3, 0, 0, 3, 1, 4, 0, 2, 4, 4, 1, 0, 3, 2], np.int32)
    groups = entries.size
    stream = Stream(
        np.arange(groups + 1), entries, np.full(groups, DECODE_LOOKUP, np.uint8), np.arange(groups, dtype=np.int32),
        np.array([0, groups]), np.ones(5, np.int64),
    )  # fmt: skip
    rises = np.diff(sortable(keys_of(policy, stream)))
    return 1 if (rises < 0).all() else -1 if (rises > 0).all() else 0


def state_of(policy: Policy, stream: Stream, number: int = 0) -> npt.NDArray[np.int64]:
    """The state array of a cache; the loop writes the running step into the last cell of its first row. Of a policy in
    plain Python it holds just the number of the cache."""
    if isinstance(policy, CompiledSlotPolicy):
        return policy._state(stream)
    if isinstance(policy, SlotPolicy):
        return np.array([[number, 0]], np.int64)
    from remoe_sim.kernels.keyed import ROWS

    return np.zeros((ROWS, stream.n_entries + 2), np.int64)


def drive(
    loop: Any, policy: Policy, streams: list[Stream], plain: bool = False, recency: int = 0
) -> tuple[Any, tuple[Any, ...]]:
    """The loop as it can call the policy's verbs, and these: setup, touch, admit, victim, insert, surplus, and whether
    the last is to be asked. The states of the caches are of `state_of`. plain: in Python, if the policy is compiled.
    recency: of `recency_of`, where the loop takes a clock for keys."""
    if not isinstance(policy, SlotReplay):
        from remoe_sim.kernels import keyed

        if recency == 1:
            own = keyed.victim_recent
            return loop, (keyed.setup_recent, keyed.touch_recent, keyed.admit, own, keyed.insert_recent, own, False)
        return loop, (keyed.setup, keyed.touch, keyed.admit, keyed.victim, keyed.insert, keyed.victim, False)
    from remoe_sim.kernels.compile import plain as in_python

    if isinstance(policy, CompiledSlotPolicy) and plain:
        return in_python(loop), (*plain_verbs(type(policy), policy.fast), policy._trims)
    if isinstance(policy, CompiledSlotPolicy):
        return loop, (*policy._verbs(streams[0]), policy._trims)
    own = [deepcopy(policy) for _ in streams]  # an object for each cache
    each = [one._verbs(stream) for one, stream in zip(own, streams, strict=True)]

    def of_its_cache(verb: int) -> Any:
        return lambda state, what: each[int(state[0, 0])][verb](state, what)

    return in_python(loop), (*map(of_its_cache, range(len(VERBS))), policy._trims)
