"""One replay with prefetching: the caches of a policy, driven group by group, and the guesses issued in between."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.caches import Caches
from remoe_sim.kernels.prefetch import COLUMNS, NO_VICTIM, prefetch_replay
from remoe_sim.kernels.tallies import DECODE, PREFILL
from remoe_sim.model_sizes import SizedModel
from remoe_sim.policy import Policy, StackPolicy
from remoe_sim.policy_guard import run_told
from remoe_sim.predictors import Guesses, Known
from remoe_sim.prefetch_results import PrefetchCounts, PrefetchResult
from remoe_sim.settings import Limit
from remoe_sim.streams import Longs, Stream
from remoe_sim.tier_passes import Course, Items, Memory, stream_of_cache
from remoe_sim.timelines import Reads
from remoe_sim.timing import DeviceRun, StepCounts, Timed
from remoe_sim.verbs import drive, keys_of, recency_of, sortable, state_of


@dataclass(frozen=True)
class PrefetchRun:
    """All that the replays of one call have in common; cap: bytes that may be prefetched in a step, -1 for any; on:
    where they run, and whose sizes, if times are wanted."""

    caches: Caches
    limit: Limit
    known: Known
    cap: int = -1
    on: tuple[DeviceRun, SizedModel] | None = None

    def result(self, predictor: str, policy: Policy, guesses: Guesses) -> PrefetchResult:
        """Replay one policy with the guesses of one predictor."""
        trace, tokens, settings = self.caches.trace, self.caches.tokens, self.caches.settings
        table, evictions = np.zeros((3, trace.moe_layers, COLUMNS), np.int64), np.zeros(2, np.int64)
        read = self._replay(policy, guesses, table, evictions)
        sizes = trace.model.expert_bytes
        weights = None if sizes is None else np.array(sizes, np.int64)

        def counts(kinds: tuple[int, ...], layers: slice = slice(None)) -> PrefetchCounts:
            mine = table[list(kinds), layers].sum(axis=0)
            return PrefetchCounts.of(mine, sum(map(tokens.count, kinds)), None if weights is None else weights[layers])

        both = (PREFILL, DECODE)
        said = {name: value for name, value in asdict(settings).items() if name != "order"}
        said["capacity"] = self.limit.to_dict(settings.per_layer)
        said |= {"depth": self.known.depth, "cap_bytes": None if self.cap < 0 else self.cap}
        return PrefetchResult(
            predictor, policy.label, said, counts((PREFILL,)), counts((DECODE,)), counts(both),
            {number: counts(both, slice(index, index + 1)) for index, number in enumerate(trace.layer_numbers)},
            int(evictions[0]), int(evictions[1]), timed=self._timed(guesses, *read),
        )  # fmt: skip

    def _timed(self, guesses: Guesses, missed: Longs, came: Longs, used: Longs) -> Timed | None:
        """The times, from the misses of each group, and the loads for each target that are made and used."""
        if self.on is None:
            return None
        trace, tokens, known = self.caches.trace, self.caches.tokens, self.known
        run, model = self.on
        counts = StepCounts(trace, tokens, 0)
        counts.need(known.stream)
        costs, steps = run.costs(trace, model), run.steps(trace, tokens, counts.needed)
        misses, early, right = (np.zeros_like(counts.needed) for _ in range(3))
        misses[known.stream.steps, known.layers] = missed
        early[known.stream.steps[guesses.targets], known.layers[guesses.targets]] = came
        right[known.stream.steps[guesses.targets], known.layers[guesses.targets]] = used
        demand = Reads.of(costs, misses, "layer")
        reads = Reads(demand.far, demand.near, early, right, known.depth, guessed=True)
        return Timed(run, model, costs, steps, reads)

    def _replay(self, policy: Policy, guesses: Guesses, table: Longs, evictions: Longs) -> tuple[Longs, Longs, Longs]:
        """Adds to the counts; returns misses of each group, loads for each target, and those that it uses."""
        known, trace, settings = self.known, self.caches.trace, self.caches.settings
        memory = Memory.of(trace, settings, self.limit)
        stream = self.caches.global_views(memory.in_bytes).get(policy.by_last)
        layers = known.layers
        starts = np.array([first for first, _, _ in memory.caches], np.int64)
        in_cache = layers if memory.per_layer else np.zeros(layers.size, np.int32)
        of_lookup = np.repeat(in_cache, np.diff(stream.offsets))
        entries = (stream.entries - starts[of_lookup]).astype(np.int32)
        of_guess = np.repeat(in_cache[guesses.targets], np.diff(guesses.offsets))
        guessed = (guesses.entries - starts[of_guess]).astype(np.int32)
        kinds = np.maximum.reduceat(stream.kinds, stream.offsets[:-1]) if layers.size else stream.kinds
        streams = self._streams(stream, memory)
        recency = recency_of(policy)
        keys, first_keys = _keys(policy, streams, of_lookup, recency != 0)
        layer_of_entry = np.repeat(np.arange(trace.moe_layers, dtype=np.int32), trace.model.experts)
        sizes, layer_of = _by_cache(memory, memory.sizes), _by_cache(memory, layer_of_entry)
        weights = np.array(trace.model.expert_bytes or (1,) * trace.moe_layers, np.int64)
        missed, came, used = (np.zeros(size, np.int64) for size in (layers.size, *(guesses.targets.size,) * 2))

        def run(plain: bool) -> Any:
            loop, verbs = drive(prefetch_replay, policy, streams, plain)
            return loop(
                stream.steps, layers, in_cache, stream.epochs, stream.offsets, entries, stream.kinds, guesses.targets,
                guesses.issued, kinds[guesses.targets], guesses.offsets, guessed, keys, first_keys, recency,
                sizes, layer_of, weights, np.array([limit for _, _, limit in memory.caches], np.int64), self.cap,
                settings.mandatory, _states(policy, streams, sizes), *verbs, table, evictions, missed, came,
                used,
            )  # fmt: skip

        fault = run_told(policy, run)
        if fault == NO_VICTIM:
            raise ValueError(f"policy '{policy.label}' chose a victim that it may not; correct its victim()")
        return missed, came, used

    def _streams(self, stream: Stream, memory: Memory) -> list[Stream]:
        """The accesses of each cache, without the guesses."""
        course, items = Course.of(stream), Items.of_stream(stream)
        return [
            stream_of_cache(items.take(items.within(first, past)), memory, index, course)
            for index, (first, past, _) in enumerate(memory.caches)
        ]


def _keys(policy: Policy, streams: list[Stream], of_lookup: npt.NDArray[np.int32], clock: bool) -> tuple[Longs, Longs]:
    """Keys of a stack policy: int64[N] in execution order, and int64[1 or epochs, caches, n] before the first use
    (neither matters under a clock, but that there are some)."""
    n = max(stream.n_entries for stream in streams)
    if not isinstance(policy, StackPolicy):
        return np.zeros(0, np.int64), np.zeros((1, len(streams), n), np.int64)
    raw = [keys_of(policy, stream) for stream in streams]
    keys = np.empty(of_lookup.size, np.int64)
    keys[np.argsort(of_lookup.astype(np.uint16), kind="stable")] = np.concatenate([sortable(one) for one in raw])
    first = [
        sortable(policy.preload_keys(stream, np.arange(stream.n_entries, dtype=np.int32), one.dtype))
        for stream, one in zip(streams, raw, strict=True)
    ]
    first_keys = np.zeros((1 if clock else first[0].shape[0], len(streams), n), np.int64)
    for index, one in enumerate([] if clock else first):
        first_keys[:, index, : one.shape[1]] = one
    return keys, first_keys


def _by_cache(memory: Memory, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A value of every entry as [caches, n], padded by ones."""
    n = max(past - first for first, past, _ in memory.caches)
    table = np.ones((len(memory.caches), n), values.dtype)
    for index, (first, past, _) in enumerate(memory.caches):
        table[index, : past - first] = values[first:past]
    return table


def _states(policy: Policy, streams: list[Stream], sizes: Longs) -> npt.NDArray[np.int64]:
    """The states of all caches, as if all had as many entries as the largest."""
    padded = [replace(stream, weights=np.append(stream.weights, sizes[0, stream.n_entries :])) for stream in streams]
    return np.stack([state_of(policy, stream, number) for number, stream in enumerate(padded)])
