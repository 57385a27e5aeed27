"""From a trace to the accesses of each cache: which tokens take part, which step each belongs to, and its groups."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels import grouping, tallies
from remoe_sim.trace.trace import DECODE, PHASES, Decisions, Trace

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Longs

# What a lookup counts as: the first decode tokens may warm up the cache, and of a step's tokens the largest wins.
WARMUP_LOOKUP, PREFILL_LOOKUP, DECODE_LOOKUP = tallies.WARMUP, tallies.PREFILL, tallies.DECODE


@dataclass(frozen=True)
class Tokens:
    """The tokens that take part in a replay, in execution order.

    rows: int64, their rows in the trace, or None for all; kinds: uint8, what their lookups count as; starts:
    int64[n_steps + 1], where each step begins; fresh: bool[n_steps], the cache is emptied before the step.
    """

    rows: Longs | None
    kinds: npt.NDArray[np.uint8]
    starts: Longs
    fresh: npt.NDArray[np.bool_]
    _full: dict[int, Blocks] = field(default_factory=dict, repr=False, compare=False)
    _part: list[Tokens] = field(default_factory=list, repr=False, compare=False)

    @property
    def n_steps(self) -> int:
        return self.starts.size - 1

    def count(self, kind: int) -> int:
        """How many tokens are of a kind."""
        return int(np.count_nonzero(self.kinds == kind))

    @cached_property
    def kind_counts(self) -> Longs:
        """int64[3]: how many tokens are of each kind."""
        return np.bincount(self.kinds, minlength=3)

    def lookups(self, kinds: npt.NDArray[np.uint8], k: int) -> Longs:
        """int64[3]: how many of a layer's lookups, of these kinds, are of each kind, where tokens choose k experts."""
        if kinds.size == self.kinds.size * k:  # every choice is a lookup
            return self.kind_counts * k
        return np.bincount(kinds, minlength=3)

    @property
    def one_per_step(self) -> bool:
        return self.n_steps == self.kinds.size

    def part(self, here: slice) -> Tokens:
        """Some of the tokens, where each is a step of its own; those given before if they are alike, for what was made
        of them serves again."""
        kinds, fresh = self.kinds[here], self.fresh[here]
        for some in self._part:
            if np.array_equal(kinds, some.kinds) and np.array_equal(fresh, some.fresh):
                return some
        some = Tokens(None, kinds, self.starts[here.start : here.stop + 1] - here.start, fresh)
        self._part[:] = [some]
        return some

    def full_blocks(self, experts: npt.NDArray[np.uint16]) -> Blocks:
        """What a layer accesses where every slot of experts[tokens, k] was computed; but for the entries it is the
        same in all layers, and made once."""
        k = experts.shape[1]
        if k not in self._full:
            steps = np.arange(self.n_steps, dtype=np.int32)
            kinds = np.repeat(self.kinds, k)
            self._full[k] = Blocks(self.starts * k, np.zeros(0, np.uint16), kinds, steps)
        return replace(self._full[k], entries=experts.reshape(-1))


def select_tokens(
    trace: Trace, phase: str = "all", reset: str = "never", warmup: int = 0, requests: Longs | None = None
) -> Tokens:
    """The tokens of a phase, with the first `warmup` decode tokens (of each request when reset) not counted.

    requests: those that take part; all if None.

    Raises TraceError if the cache is to be emptied at each request but requests interleave.
    """
    rows = None if phase == "all" else np.flatnonzero(trace.phase == PHASES.index(phase))
    if requests is not None:
        rows = np.arange(trace.tokens) if rows is None else rows
        rows = rows[np.isin(trace.request[rows], requests)]
    if rows is not None and rows.size == trace.tokens:
        rows = None  # all of them, which is quicker to say
    of = slice(None) if rows is None else rows
    step, request = trace.step[of], trace.request[of]
    decode = trace.phase[of] == DECODE
    first = np.ones(step.size, np.bool_)  # rows that begin a step
    first[1:] = step[1:] != step[:-1]
    starts = np.append(np.flatnonzero(first), step.size)
    fresh = np.zeros(starts.size - 1, np.bool_)
    fresh[:1] = True
    turns = np.zeros(step.size, np.bool_)  # rows that begin a request
    turns[1:] = request[1:] != request[:-1]
    if reset == "request":
        _refuse_interleaving(trace, request, turns & ~first, turns)
        fresh[np.searchsorted(starts, np.flatnonzero(turns))] = True
    kinds = np.where(decode, np.uint8(DECODE_LOOKUP), np.uint8(PREFILL_LOOKUP))
    if warmup:
        number = np.cumsum(decode)
        if reset == "request":
            before = (number - decode)[turns]
            number = number - np.repeat(
                np.append(0, before), np.diff(np.flatnonzero(np.append(turns, True)), prepend=0)
            )
        kinds[decode & (number <= warmup)] = WARMUP_LOOKUP
    return Tokens(rows, kinds, starts.astype(np.int64, copy=False), fresh)


def _refuse_interleaving(
    trace: Trace, request: npt.NDArray[np.int32], within_step: npt.NDArray[np.bool_], turns: npt.NDArray[np.bool_]
) -> None:
    together = bool(within_step.any())
    if together or np.unique(request).size != np.count_nonzero(turns) + bool(request.size):
        why = "a step holds tokens of two requests" if together else "the rows of a request are not together"
        raise trace.error(f"the cache cannot be emptied at each request because {why}; use --reset never")


@dataclass(frozen=True)
class Blocks:
    """What one layer accesses, step by step: offsets int64[blocks + 1], entries, kinds, and the step of each block."""

    offsets: Longs
    entries: npt.NDArray[np.uint16]
    kinds: npt.NDArray[np.uint8]
    steps: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Stream:
    """The accesses of one cache, in execution order.

    offsets: int64[groups + 1]; entries: uint16 or int32[N], distinct within a group; kinds: uint8[N], what each lookup
    counts as; steps: int32[groups]; epochs: int64[n + 1], group bounds between which the cache lives; weights:
    int64[n_entries], bytes of each entry (1 each when sizes are unknown); limits count entries unless `in_bytes`;
    layer_starts: the first entry of each layer that shares the cache.
    """

    offsets: Longs
    entries: npt.NDArray[np.uint16] | npt.NDArray[np.int32]
    kinds: npt.NDArray[np.uint8]
    steps: npt.NDArray[np.int32]
    epochs: Longs
    weights: Longs
    in_bytes: bool = False
    per_layer: bool = True
    layer_starts: Longs = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def n_entries(self) -> int:
        return self.weights.size

    @property
    def whole(self) -> Stream:
        """Itself, or, if it is shown read-only to a policy, the stream that it shows."""
        return self

    @property
    def sizes(self) -> Longs:
        """What each entry takes of the limit."""
        return self.weights if self.in_bytes else np.ones(self.n_entries, np.int64)

    @cached_property
    def equal_weights(self) -> bool:
        """Whether all entries have the same bytes."""
        return bool((self.weights == self.weights[:1]).all())

    @property
    def equal_sizes(self) -> bool:
        """Whether every entry takes the same of the limit."""
        return not self.in_bytes or self.equal_weights

    @cached_property
    def first(self) -> npt.NDArray[np.bool_]:
        """bool[N]: the first lookup of its entry since the cache was last empty."""
        first = np.empty(self.entries.size, np.bool_)
        grouping.first_uses(self.offsets, self.entries, self.epochs, np.full(self.n_entries, -1, np.int64), first)
        return first


def layer_blocks(n_experts: int, decisions: Decisions, tokens: Tokens, order: str, by_last: bool = True) -> Blocks:
    """What a layer accesses: distinct experts per step in order of last (or first) appearance, or, in
    sequential order, every slot."""
    if tokens.rows is not None:
        decisions = decisions.take(tokens.rows)
    if order == "sequential" or tokens.one_per_step:
        return _every_slot(decisions, tokens)
    mask, n_steps = decisions.mask, tokens.n_steps
    slots = decisions.experts.size
    offsets, steps = np.empty(n_steps + 1, np.int64), np.empty(n_steps, np.int32)
    members, kinds = np.empty(slots, np.uint16), np.empty(slots, np.uint8)
    marks = np.full(n_experts, -1, np.int64)
    groups = grouping.group_steps(
        decisions.experts, mask, tokens.kinds, tokens.starts, by_last, marks, offsets, members, kinds, steps
    )
    end = offsets[groups]
    return Blocks(offsets[: groups + 1], members[:end], kinds[:end], steps[:groups])


def _every_slot(decisions: Decisions, tokens: Tokens) -> Blocks:
    """All valid slots; within one token they are distinct anyway."""
    if decisions.valid is None:
        return tokens.full_blocks(decisions.experts)
    counts = decisions.valid.sum(axis=1)
    entries, kinds = decisions.experts[decisions.valid], np.repeat(tokens.kinds, counts)
    bounds = np.append(0, np.cumsum(counts))[tokens.starts]
    there = np.flatnonzero(np.diff(bounds))
    if there.size == tokens.n_steps:
        return Blocks(bounds, entries, kinds, np.arange(tokens.n_steps, dtype=np.int32))
    return Blocks(np.append(bounds[there], bounds[-1:]), entries, kinds, there.astype(np.int32))


def _stream(blocks: Blocks, entries: npt.NDArray[np.int32] | npt.NDArray[np.uint16], tokens: Tokens, order: str,
            weights: Longs, in_bytes: bool, per_layer: bool) -> Stream:  # fmt: skip
    offsets, steps = blocks.offsets, blocks.steps
    if order == "sequential":  # every access is a group of its own
        steps = np.repeat(steps, np.diff(offsets))
        offsets = np.arange(entries.size + 1)
    fresh, each = np.flatnonzero(tokens.fresh), per_layer and order == "set" and steps.size == tokens.n_steps
    epochs = np.append(fresh if each else np.searchsorted(steps, fresh), steps.size)
    return Stream(offsets, entries, blocks.kinds, steps, epochs.astype(np.int64), weights, in_bytes, per_layer)


def layer_stream(
    trace: Trace, index: int, decisions: Decisions, tokens: Tokens, order: str, by_last: bool = True
) -> Stream:
    """The accesses of the cache of MoE layer `index`; its limit counts experts, which are of one size."""
    blocks = layer_blocks(trace.model.experts[index], decisions, tokens, order, by_last)
    size = 1 if trace.model.expert_bytes is None else trace.model.expert_bytes[index]
    weights = np.full(trace.model.experts[index], size, np.int64)
    return _stream(blocks, blocks.entries, tokens, order, weights, False, True)


def global_stream(trace: Trace, tokens: Tokens, order: str, in_bytes: bool, by_last: bool = True) -> Stream:
    """The accesses of one cache that all layers share; entry = first entry of its layer + expert."""
    experts = trace.model.experts
    bases = np.append(0, np.cumsum(experts))
    layers = deque(
        layer_blocks(experts[index], trace.decisions(index), tokens, order, by_last)
        for index in range(trace.moe_layers)
    )
    events = np.zeros(tokens.n_steps + 1, np.int64)
    for blocks in layers:
        events[1:][blocks.steps] += 1
    first_event = np.cumsum(events)
    steps = np.repeat(np.arange(tokens.n_steps, dtype=np.int32), events[1:])
    offsets = np.zeros(first_event[-1] + 1, np.int64)
    cursor = first_event[:-1].copy()
    for blocks in layers:
        offsets[cursor[blocks.steps] + 1] = np.diff(blocks.offsets)
        cursor[blocks.steps] += 1
    np.cumsum(offsets, out=offsets)
    narrow: Any = np.uint16 if bases[-1] < 2**16 else np.int32
    entries, kinds = np.empty(offsets[-1], narrow), np.empty(offsets[-1], np.uint8)
    cursor = first_event[:-1].copy()
    for base in bases[:-1]:
        blocks = layers.popleft()  # and let go of when it is copied
        grouping.merge_layers(
            blocks.steps, base, blocks.offsets, blocks.entries, blocks.kinds, cursor, offsets, entries, kinds
        )
    sizes_known = trace.model.expert_bytes
    weights = (
        np.ones(bases[-1], np.int64) if sizes_known is None else np.repeat(np.array(sizes_known, np.int64), experts)
    )
    merged = Blocks(offsets, entries, kinds, steps)
    stream = _stream(merged, entries, tokens, order, weights, in_bytes, False)
    return replace(stream, layer_starts=bases[:-1])


class StreamViews:
    """The same accesses with members of a group in order of last or of first appearance, each made when asked for."""

    def __init__(self, make: Callable[[bool], Stream], tokens: Tokens) -> None:
        self._make, self._either = make, tokens.one_per_step
        self._made: dict[bool, Stream] = {}

    def get(self, by_last: bool) -> Stream:
        by_last = by_last or self._either  # a token's own experts appear once, so both orders are one
        if by_last not in self._made:
            self._made[by_last] = self._make(by_last)
        return self._made[by_last]

    def only(self, by_last: bool) -> Stream:
        """As `get`, for the last time that the other order is of use: it is let go of."""
        if not self._either:
            self._made.pop(not by_last, None)
        return self.get(by_last)
