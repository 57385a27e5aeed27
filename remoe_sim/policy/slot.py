"""Slot policies, in plain Python or compiled, and the loop that replays one, made of its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cache
from hashlib import sha256
from operator import index
from pathlib import Path
from sys import modules
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.arguments import GroupedAccesses, Stock, Written
from remoe_sim.policy.base import Policy
from remoe_sim.policy.guard import read_only, run_told
from remoe_sim.policy.outcome import Outcome, Rules, empty_outcome
from remoe_sim.util.plugin_sources import is_ours, sources_of

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.util.arrays import Longs

NEAR = 2**16  # bytes of states at several limits that are used in turn: about what a processor has at hand
VERBS = ("setup", "hit", "admit", "victim", "insert", "surplus")  # in a policy; a loop says touch for hit


class SlotReplay(Policy):
    """What slot policies in plain Python and compiled ones share: the replay of one cache at one limit."""

    by_last: ClassVar[bool] = False

    @property
    def _trims(self) -> bool:
        """Whether the policy defines `surplus`, which is then asked after every hit."""
        raise NotImplementedError

    def _verbs(self, stream: Stream) -> tuple[Any, ...]:
        """Functions for VERBS, each of the state array and what the verb is told; the last matters only if it
        `_trims`."""
        raise NotImplementedError

    def _loop(self, stream: Stream, plain: bool) -> Any:
        """Bind the loop to this policy's verbs. plain: in Python, whatever the policy is."""
        raise NotImplementedError

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        """Make the state array of a cache."""
        raise NotImplementedError

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        stream = stream.whole
        hit, resting, running = empty_outcome(stream)
        preload = rules.preload if rules.preload.flags.writeable else rules.preload.copy()
        entries = stream.entries.astype(np.int32, copy=False)
        accesses = GroupedAccesses(stream.offsets, entries, stream.steps, stream.epochs)
        stock, written = Stock(stream.sizes, stream.weights, preload), Written(hit, resting, running)

        def run(plain: bool) -> int:
            own = copy(self)  # layers are replayed side by side, each with an object of its own
            loop = own._loop(stream, plain)
            return int(loop(accesses, stock, limit, rules.mandatory, own._state(stream), written))

        evictions: int = run_told(self, run)
        self._check(evictions)
        return Outcome(hit, evictions, resting, running)

    def _check(self, evictions: int) -> None:
        """ValueError if a loop found no victim."""
        if evictions < 0:
            raise ValueError(
                f"policy '{self.label or self.name}' chose a victim that is not resident, or is protected; "
                "correct its victim()"
            )


class SlotPolicy(SlotReplay):
    """A policy in ordinary Python: one object per cache, told of what happens and asked for victims.

    An entry is a whole number; in scope `layer` it is the expert. For every distinct expert of a step, in order of
    first appearance: `hit` if it is resident; otherwise `admit`, then `victim` until it fits, then `insert` (under
    bypass `insert` comes before `victim`, and the newcomer may be chosen).
    """

    def setup(self, limit: int, sizes: Longs) -> None:
        """Start empty. limit: what the cache holds, in the unit of sizes; sizes: int64[n_entries]."""

    def hit(self, entry: int) -> None:
        """A resident entry is used."""

    def admit(self, entry: int) -> None:
        """An entry that is not resident is needed; nothing was evicted for it yet."""

    def victim(self, protected: npt.NDArray[np.uint8]) -> int:
        """Choose, forget and return a resident entry e with protected[e] == 0, or -1 if there is none."""
        raise NotImplementedError(f"policy '{self.label or self.name}' must define victim(protected)")

    def insert(self, entry: int) -> None:
        """The entry is resident from now on."""

    def surplus(self, protected: npt.NDArray[np.uint8]) -> int:
        """Choose, forget and return a resident entry e with protected[e] == 0 that leaves because of the hit before, or
        -1. For the few policies that define it, asked after each hit until it is -1."""
        return -1

    @property
    def _trims(self) -> bool:
        own: Any = type(self)
        return own.surplus is not SlotPolicy.surplus

    def _verbs(self, stream: Stream) -> tuple[Any, ...]:
        def checked(verb: Any) -> Any:
            return lambda state, protected: checked_victim(self.label or self.name, verb(read_only(protected)))

        return (
            lambda state, limit: self.setup(int(limit), read_only(stream.sizes)),
            lambda state, entry: self.hit(int(entry)),
            lambda state, entry: self.admit(int(entry)),
            checked(self.victim),
            lambda state, entry: self.insert(int(entry)),
            checked(self.surplus),
        )

    def _loop(self, stream: Stream, plain: bool) -> Any:
        return plain_loop(loop_for(stream), self._verbs(stream), self._trims)

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        return np.zeros((1, 1), np.int64)


class CompiledSlotPolicy(SlotReplay):
    """A slot policy whose verbs are compiled: static functions over one state array.

    state: int64[state_rows, n_entries + 2], zero at first but for row 0, which holds the sizes, `parameter` and the
    number of the running step. In the other rows the two extra columns serve as list heads or scalars. The verbs are
    those of `SlotPolicy`, and called when it is.
    """

    state_rows: ClassVar[int] = 1

    @property
    def parameter(self) -> int:
        """What the verbs need to know of the options."""
        return 0

    @staticmethod
    def setup(state: Any, limit: Any) -> None:
        """Start empty. limit: what the cache holds, in the unit of the sizes."""

    @staticmethod
    def hit(state: Any, entry: Any) -> None:
        """A resident entry is used."""

    @staticmethod
    def admit(state: Any, entry: Any) -> None:
        """An entry that is not resident is needed; nothing was evicted for it yet."""

    @staticmethod
    def victim(state: Any, protected: Any) -> Any:
        """Choose, forget and return a resident entry e with protected[e] == 0, or -1 if there is none."""
        raise NotImplementedError("a compiled slot policy must define victim(state, protected)")

    @staticmethod
    def insert(state: Any, entry: Any) -> None:
        """The entry is resident from now on."""

    @staticmethod
    def surplus(state: Any, protected: Any) -> Any:
        """Choose, forget and return a resident entry e with protected[e] == 0 that leaves because of the hit before, or
        -1. For the few policies that define it, asked after each hit until it is -1."""
        return -1

    @property
    def _trims(self) -> bool:
        own: Any = type(self)
        return own.surplus is not CompiledSlotPolicy.surplus

    def _verbs(self, stream: Stream) -> tuple[Any, ...]:
        own: Any = type(self)
        verbs = VERBS if self._trims else (*VERBS[:-1], "victim")  # the last is not called
        return tuple(compiled_verb(own, verb, self.fast) for verb in verbs)

    def _loop(self, stream: Stream, plain: bool) -> Any:
        own: Any = type(self)
        if plain:
            return plain_loop(loop_for(stream), plain_verbs(own, self.fast), self._trims)
        return compiled_loop(loop_for(stream), own, self._trims, self.fast)

    def hits_at(self, stream: Stream, limits: Longs, rules: Rules) -> Longs:
        """int64[3, limits]: hits of each kind of lookup at several limits, of entries of size 1."""
        stream = stream.whole
        preload = rules.preload if rules.preload.flags.writeable else rules.preload.copy()
        entries = stream.entries.astype(np.int32, copy=False)
        accesses = GroupedAccesses(stream.offsets, entries, stream.steps, stream.epochs)
        least = min(limits.size, int(np.searchsorted(limits, 1)))  # nothing hits in a cache without room
        state = self._state(stream)
        together = min(max(NEAR // state.nbytes, 4), 32)
        misses = np.zeros((3, limits.size), np.int64)

        def run(plain: bool) -> int:
            own = copy(self)
            loop = own._loop_at(plain)
            for first in range(least, limits.size, together):
                some, counts = limits[first : first + together], np.zeros((3, together), np.int64)
                states = np.repeat(state[None], some.size, axis=0)
                if loop(accesses, stream.kinds, preload, some, rules.mandatory, states, counts) < 0:
                    return -1
                misses[:, first : first + some.size] = counts[:, : some.size]
            return 0

        self._check(run_told(self, run))
        lookups = np.bincount(stream.kinds, minlength=3)[:, None]
        hits: Longs = np.where(limits > 0, lookups - misses, 0)
        return hits

    def _loop_at(self, plain: bool) -> Any:
        from remoe_sim.kernels.slots import SEVERAL, several_replays

        own: Any = type(self)
        if plain:
            return plain_loop(several_replays, plain_verbs(own, self.fast), self._trims)
        return compiled_loop(several_replays, own, self._trims, self.fast, SEVERAL)

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        state = np.zeros((self.state_rows, stream.n_entries + 2), np.int64)
        state[0, : stream.n_entries] = stream.sizes
        state[0, stream.n_entries] = self.parameter
        return state


def checked_victim(policy: str, victim: Any) -> int:
    """The number of a victim; ValueError if it is no whole number."""
    try:
        return index(victim)
    except TypeError:
        raise ValueError(
            f"policy '{policy}' chose {victim!r} as a victim; its victim() must return a resident entry, or -1 if "
            "there is none"
        ) from None


def loop_for(stream: Stream) -> Any:
    """The loop over groups, or the faster one where every access is a group of its own."""
    if stream.steps.size == stream.entries.size:
        from remoe_sim.kernels.slots import lone_replay

        return lone_replay
    from remoe_sim.kernels.slots import slot_replay

    return slot_replay


def plain_loop(loop: Any, functions: Sequence[Any], trims: bool) -> Any:
    """The loop in plain Python with these functions for VERBS; trims: whether the last is to be asked."""
    from remoe_sim.kernels.compile import bound

    return bound(loop, _named(functions, trims), loop.__name__)


def plain_verbs(policy: Any, fast: bool) -> list[Any]:
    """VERBS of a compiled policy in plain Python; what they call is compiled."""
    from remoe_sim.kernels.checked import checked_function

    functions = [getattr(policy, verb) for verb in VERBS]
    return functions if fast or is_ours(policy.__module__) else [checked_function(one) for one in functions]


@cache
def compiled_loop(loop: Any, policy: Any, trims: bool, fast: bool, signature: Any = None) -> Any:
    """The loop compiled for a class of policies whose verbs are static functions over a state array.

    Its machine code is kept under a name that changes with the policy's module and files, which may be a user's own.
    fast: without bounds checks of what is not ours.
    """
    from remoe_sim.kernels.compile import bound, kernel
    from remoe_sim.kernels.slots import LOOP

    name = f"{loop.__name__}_{policy.__name__}_{_digest(policy)}{'' if fast else '_checked'}"
    own = _named([_verb(policy, verb, fast) for verb in VERBS], trims)
    own["TOUCHES"] = policy.hit is not CompiledSlotPolicy.hit
    return kernel(bound(loop, own, name), signature=signature or LOOP)


@cache
def compiled_verb(policy: Any, verb: str, fast: bool) -> Any:
    """One of VERBS, compiled so that it can be an argument of a kernel."""
    from remoe_sim.kernels.compile import ENTRY, SETUP, VICTIM, bound, kernel

    signature = {"setup": SETUP, "victim": VICTIM, "surplus": VICTIM}.get(verb, ENTRY)
    if is_ours(policy.__module__):
        return kernel(getattr(policy, verb), signature=signature)
    from remoe_sim.kernels import slots

    name = f"{verb}_{policy.__name__}_{_digest(policy)}{'' if fast else '_checked'}"
    call: Any = slots.call_victim if signature is VICTIM else slots.call_verb
    return kernel(bound(call, {"verb": _verb(policy, verb, fast)}, name), signature=signature)


def _verb(policy: Any, verb: str, fast: bool) -> Any:
    """One of VERBS as a part of what calls it. Those of others cannot write to what the loop protects."""
    from remoe_sim.kernels.checked import checked_function
    from remoe_sim.kernels.compile import READ_ONLY_VICTIM, kernel

    function = getattr(policy, verb)
    if is_ours(policy.__module__):
        return kernel(function, inline=True)
    signature = READ_ONLY_VICTIM if verb in ("victim", "surplus") else None
    own = function if fast else checked_function(function)
    return kernel(own, inline=True, signature=signature, check=not fast, keep=False)


def _digest(policy: Any) -> str:
    """Of all that a policy's machine code is made of, but for the kernels, which the folder is named by."""
    if is_ours(policy.__module__):
        files = sorted({getattr(policy, verb).__code__.co_filename for verb in VERBS})
        known_by = [policy.__module__.encode(), *(Path(file).read_bytes() for file in files)]
    else:
        own = [one.__module__ for one in policy.__mro__ if not is_ours(one.__module__) and one is not object]
        loaded = [modules[name] for name in own if getattr(modules.get(name), "__file__", None)]
        known_by = [policy.__module__.encode(), *(sources_of(module).digest.encode() for module in loaded)]
    return sha256(b"\0".join(known_by)).hexdigest()[:16]


def _named(functions: Sequence[Any], trims: bool) -> dict[str, Any]:
    """Functions for VERBS by the names of `kernels.slot_verbs`."""
    names = ["touch" if verb == "hit" else verb for verb in VERBS]
    return {**dict(zip(names, functions, strict=True)), "TRIMS": trims}
