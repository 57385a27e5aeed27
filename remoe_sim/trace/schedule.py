"""The tokens of a trace in another execution order: requests in batches, prompts in chunks, decode tokens in windows.

A request is a row of turns (usually one): the steps of a prompt, then decode tokens. Under continuous batching `size`
requests run at once, and each contributes its next decode token, or window of tokens, to every decode step.
"""

from __future__ import annotations

import heapq
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.trace.trace import DECODE, PREFILL, Decisions, Trace, TraceLike
from remoe_sim.util.errors import unknown
from remoe_sim.util.units import parse_count, parse_number, plural

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Array, Flags, Int32s, Ints, Longs, Singles

ARRIVALS = ("trace", "random")


def batch(
    trace: TraceLike,
    size: int | str = 1,
    prefill_chunk: int | str | None = None,
    draft: int | str = 0,
    accept: float | str | None = None,
    arrival: str = "trace",
    seed: int | str = 0,
) -> Trace:
    """The same tokens as `size` requests at a time would execute them: a trace in another order and with other steps.

    Continuous batching, always with a backlog: requests arrive in the order of their first rows, or in a random order
    (arrival="random"), and a finished one is replaced at once. A decode step takes the next decode token of every
    running request, in order of arrival. The steps that were recorded are not kept, but for those of prompts: each
    prefill step of a request is a step of its own, before the next decode step, as long as `prefill_chunk` is None.
    With it, prefill steps are split into chunks of at most so many tokens, and a step is the next decode token of every
    request that is past its prompt, then one chunk; prompts take turns in order of arrival (chunked prefill as in vLLM
    with one partial prefill at a time; the chunk does not shrink with the number of decode tokens beside it).

    draft: speculative verification. A request contributes its next draft + 1 decode tokens, as if all drafts were
    accepted. With `accept` each draft is accepted with that probability until the first is not, which shortens the
    window; the experts of rejected drafts are in no trace, so groups lack them. Both are upper bounds.

    Decisions are reordered when a layer is asked for; positions stay. `origin["schedule"]` and `notes` say what was
    done. `seed` makes chance repeatable; what happens to a draft depends on its token, not on size or arrival.
    Raises ValueError for arguments that are not possible.
    """
    from remoe_sim.trace.reader import as_trace

    schedule = Schedule.of(size, prefill_chunk, draft, accept, arrival, seed)
    trace = as_trace(trace)
    rows, step = _execution(trace, schedule)
    return replace(
        trace,
        request=trace.request[rows],
        position=trace.position[rows],
        step=step,
        phase=trace.phase[rows],
        token_id=None if trace.token_id is None else trace.token_id[rows],
        source=Reordered(trace, rows),
        origin={**trace.origin, "schedule": schedule.to_dict()},
        notes="; ".join(filter(None, (trace.notes, schedule.sentence()))),
    )


@dataclass(frozen=True)
class Schedule:
    """The arguments of `batch`, checked."""

    batch: int
    prefill_chunk: int | None
    draft: int
    accept: float | None
    arrival: str
    seed: int

    @classmethod
    def of(
        cls,
        size: int | str,
        prefill_chunk: int | str | None,
        draft: int | str,
        accept: float | str | None,
        arrival: str,
        seed: int | str,
    ) -> Schedule:
        """From what the user gave; ValueError if that is not possible."""
        chunk = None if prefill_chunk is None else parse_count(prefill_chunk, "prefill_chunk", 1)
        drafts = parse_count(draft, "draft")
        if accept is not None and not drafts:
            raise ValueError(f"accept {accept} is about drafts, and there are none; give draft, such as 3, as well")
        if arrival not in ARRIVALS:
            raise unknown("arrival", str(arrival), ARRIVALS)
        probability = None if accept is None else parse_number(accept, "accept", 1)
        return cls(parse_count(size, "batch", 1), chunk, drafts, probability, arrival, parse_count(seed, "seed"))

    def to_dict(self) -> dict[str, Any]:
        """`schedule` in the `trace` object of JSON answers. upper_bound: drafts make it better than it can be."""
        return {**asdict(self), "upper_bound": self.draft > 0}

    def sentence(self) -> str:
        """What was done, for `Trace.notes`."""
        many = f"continuous batching of {self.batch} requests" if self.batch > 1 else "one request at a time"
        order = "the order of the trace" if self.arrival == "trace" else f"random order (seed {self.seed})"
        most = plural(self.prefill_chunk or 0, "token")
        prompts = (
            "recorded prefill steps are steps of their own"
            if self.prefill_chunk is None
            else f"prompts in chunks of at most {most}, one chunk per step, in which running requests decode too"
        )
        parts = [f"steps scheduled anew: {many}, arriving in {order}, a finished one replaced at once; {prompts}"]
        if self.draft:
            window = f"a decode step verifies up to {self.draft + 1} tokens of a request (draft {self.draft})"
            if self.accept is None:
                parts.append(f"{window}, all drafts accepted: an upper bound")
            else:
                parts.append(
                    f"{window}, a draft accepted with probability {self.accept:g} (seed {self.seed}); rejected drafts' "
                    "own experts are not in a trace and are left out: an upper bound"
                )
        return "; ".join(parts)


class Reordered:
    """The layers of another trace with their rows in another order, put in order when a layer is asked for."""

    def __init__(self, trace: Trace, rows: Longs) -> None:
        self._trace, self._rows = trace, rows
        self.resident = trace.source.resident

    def decisions(self, index: int) -> Decisions:
        return self._trace.decisions(index).take(self._rows)

    def weights(self, index: int) -> Singles | None:
        values = self._trace.source.weights(index)
        return None if values is None else values[self._rows]

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        values = self._trace.source.probs(index)
        return None if values is None else values[self._rows]

    @property
    def most_ahead(self) -> int:
        return self._trace.most_ahead

    def ahead(self, index: int, distance: int) -> Decisions | None:
        found = self._trace.ahead(index, distance)
        return None if found is None else found.take(self._rows)


def _execution(trace: Trace, schedule: Schedule) -> tuple[Longs, Int32s]:
    """int64[tokens]: the rows in their new order; int32[tokens]: the step of each.

    Rows are cut into pieces, which are never separated: a prefill step, a chunk of one, a decode token or a window.
    """
    arrival = _arrival(trace, schedule)
    rows = np.argsort(arrival, kind="stable")  # request by request, each in the order in which it was executed
    of, decode, recorded = arrival[rows], trace.phase[rows] == DECODE, trace.step[rows]
    new_request = _changes(of)
    new_run = new_request | _changes(decode)
    new_turn = new_request | (new_run & ~decode)
    begins = (new_run | _changes(recorded)) & ~decode
    if schedule.prefill_chunk is not None:
        begins |= (_since(begins | new_run) % schedule.prefill_chunk == 0) & ~decode
    begins |= _windows(new_run, decode, _reach(trace.tokens, schedule)[rows])

    first = np.flatnonzero(begins)  # of each piece
    turn = np.cumsum(new_turn)[first] - 1
    prompt = ~decode[first]
    chunked = schedule.prefill_chunk is not None
    number = _since(_changes(turn))  # of each piece in its turn, prompts before windows
    windows = np.bincount(turn[~prompt], minlength=np.count_nonzero(new_turn))
    prompts = np.bincount(turn[prompt], minlength=windows.size)
    in_clock = prompts if chunked else np.zeros_like(prompts)  # prompts alone do not hold up the clock
    bounds = np.append(np.flatnonzero(new_request[new_turn]), windows.size)
    clock = _starts(in_clock, windows, bounds, schedule.batch)[turn]
    clock += number if chunked else np.where(prompt, 0, number - prompts[turn])

    order = np.lexsort((prompt if chunked else ~prompt, clock))  # stable: by arrival within a step
    new_step = _changes(clock[order])
    if not chunked:
        new_step |= prompt[order] | _changes(prompt[order])
    lengths = np.diff(first, append=rows.size)[order]
    ends = np.cumsum(lengths)
    at = np.arange(rows.size) + np.repeat(first[order] - ends + lengths, lengths)
    return rows[at], np.repeat(np.cumsum(new_step) - 1, lengths).astype(np.int32)


def _arrival(trace: Trace, schedule: Schedule) -> Longs:
    """int64[tokens]: the place of each row's request in the order of arrival."""
    _, first, inverse = np.unique(trace.request, return_index=True, return_inverse=True)
    place = np.empty(first.size, np.int64)
    place[np.argsort(first)] = np.arange(first.size)
    if schedule.arrival == "random":
        place = np.random.default_rng([schedule.seed, 0]).permutation(first.size)[place]
    return place[inverse]


def _reach(tokens: int, schedule: Schedule) -> Longs:
    """int64[tokens]: how many tokens a window that begins at each row verifies."""
    drafts = min(schedule.draft, tokens)
    if schedule.accept is None:
        return np.full(tokens, drafts + 1, np.int64)
    chance = 1.0 - np.random.default_rng([schedule.seed, 1]).random(tokens)  # above 0
    at_least = schedule.accept ** np.arange(1.0, drafts + 1)  # probability of so many accepted drafts, falling
    return 1 + np.searchsorted(-at_least, -chance, side="right")


def _windows(new_run: Flags, decode: Flags, reach: Longs) -> Flags:
    """Whether a window begins at each row; the first of a run begins one, and none goes beyond its run."""
    if reach.max(initial=1) == 1:
        return decode.copy()
    begins = np.zeros_like(decode)
    ends = np.append(np.flatnonzero(new_run)[1:], decode.size)
    for start, end in zip(np.flatnonzero(new_run).tolist(), ends.tolist(), strict=True):
        at = start if decode[start] else end
        while at < end:
            begins[at] = True
            at += int(reach[at])
    return begins


def _starts(prompts: Longs, windows: Longs, bounds: Longs, size: int) -> Longs:
    """int64[turns]: the clock at which each turn begins; the clock counts steps.

    prompts, windows: steps of each turn, prompts one at a time, in order of readiness and then of arrival; bounds: the
    first turn of each request, and the number of turns. A turn and its request's next are never at once, and a request
    takes one of `size` places from its first turn to its last.
    """
    starts = np.zeros(windows.size, np.int64)
    waiting = iter(range(bounds.size - 1))
    last = set((bounds[1:] - 1).tolist())
    free = -1  # stands for a place that becomes free, and goes before turns of the same time
    events = [(0, free)] * min(size, bounds.size - 1)
    prompt_ends = 0
    while events:
        now, turn = heapq.heappop(events)
        if turn == free:
            request = next(waiting, None)
            if request is not None:
                heapq.heappush(events, (now, int(bounds[request])))
            continue
        if prompts[turn]:
            now = max(now, prompt_ends)
            prompt_ends = now + int(prompts[turn])
        starts[turn] = now
        heapq.heappush(events, (now + int(prompts[turn] + windows[turn]), free if turn in last else turn + 1))
    return starts


def _changes(values: Array) -> Flags:
    """Where a value differs from the one before it; the first does."""
    changes = np.ones(values.size, np.bool_)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _since(begins: Flags) -> Longs:
    """int64[n]: how many places ago something last began."""
    at = np.arange(begins.size)
    return at - np.maximum.accumulate(np.where(begins, at, 0))


def steps_of(request: Ints, phase: Ints) -> Int32s:
    """Forward passes where none are known: every decode token is one, a request's prompt is one. int32[tokens]."""
    new = (phase == DECODE) | (np.diff(request, prepend=request[:1]) != 0) | (np.diff(phase, prepend=PREFILL) != 0)
    new[:1] = True
    return (np.cumsum(new) - 1).astype(np.int32)
