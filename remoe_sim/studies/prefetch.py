"""`prefetch`: replay with reads ahead of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.cache.caches import Preload
from remoe_sim.cache.call import Call
from remoe_sim.cache.results import describe
from remoe_sim.cache.settings import Limit, Settings, check_policies, find_policies
from remoe_sim.cache.tier import Course, Items, Memory, stream_of_cache
from remoe_sim.devices.run import RunsOn, Timed
from remoe_sim.devices.step_counts import StepCounts
from remoe_sim.devices.steps import Reads
from remoe_sim.kernels import prefetch as kernels
from remoe_sim.policy.base import Policy
from remoe_sim.policy.drive import check_drivable, drive, keys_of, recency_of, sortable, state_of
from remoe_sim.policy.guard import run_told
from remoe_sim.policy.stack import StackPolicy
from remoe_sim.studies.predictors import PREDICTORS, Guesses, Known, guess
from remoe_sim.studies.prefetch_result import PrefetchCounts, PrefetchReport, PrefetchResult
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP, WARMUP_LOOKUP, Stream, Tokens
from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.errors import unknown
from remoe_sim.util.units import parse_bytes, parse_count, parse_number

if TYPE_CHECKING:
    from remoe_sim.devices.device import Device
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.util.arrays import Longs


@dataclass(frozen=True)
class PrefetchRun:
    """All that the replays of one call have in common; cap: bytes that may be prefetched in a step, -1 for any."""

    call: Call
    known: Known
    cap: int = -1

    @property
    def limit(self) -> Limit:
        assert self.call.limit is not None
        return self.call.limit

    def result(self, predictor: str, policy: Policy, guesses: Guesses) -> PrefetchResult:
        """Replay one policy with the guesses of one predictor."""
        trace, tokens, settings = self.call.trace, self.call.tokens, self.call.settings
        table, evictions = np.zeros((3, trace.moe_layers, kernels.COLUMNS), np.int64), np.zeros(2, np.int64)
        read = self._replay(policy, guesses, table, evictions)
        sizes = trace.model.expert_bytes
        weights = None if sizes is None else np.array(sizes, np.int64)

        def counts(kinds: tuple[int, ...], layers: slice = slice(None)) -> PrefetchCounts:
            mine = table[list(kinds), layers].sum(axis=0)
            return PrefetchCounts.of(mine, sum(map(tokens.count, kinds)), None if weights is None else weights[layers])

        both = (PREFILL_LOOKUP, DECODE_LOOKUP)
        said = {name: value for name, value in settings.to_dict().items() if name != "order"}
        said["capacity"] = self.limit.to_dict(settings.per_layer)
        said |= {"depth": self.known.depth, "cap_bytes": None if self.cap < 0 else self.cap}
        return PrefetchResult(
            predictor, policy.label, said, counts((PREFILL_LOOKUP,)), counts((DECODE_LOOKUP,)), counts(both),
            {number: counts(both, slice(index, index + 1)) for index, number in enumerate(trace.layer_numbers)},
            int(evictions[0]), int(evictions[1]), timed=self._timed(guesses, *read),
        )  # fmt: skip

    def _timed(self, guesses: Guesses, missed: Longs, came: Longs, used: Longs) -> Timed | None:
        """The times, from the misses of each group, and the loads for each target that are made and used."""
        run, model = self.call.on, self.call.model
        if run is None or model is None:
            return None
        trace, tokens, known = self.call.trace, self.call.tokens, self.known
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
        known, trace, settings = self.known, self.call.trace, self.call.settings
        memory = Memory.of(trace, settings, self.limit)
        stream = known.stream
        if memory.in_bytes or not policy.by_last:
            stream = self.call.caches.global_views(memory.in_bytes).get(policy.by_last)
        layers = known.layers
        in_cache = layers if memory.per_layer else np.zeros(layers.size, np.int32)
        number = np.concatenate([np.arange(past - first, dtype=np.int32) for first, past, _ in memory.caches])
        entries, guessed = number[stream.entries], number[guesses.entries]  # within their cache
        kinds = np.maximum.reduceat(stream.kinds, stream.offsets[:-1]) if layers.size else stream.kinds
        recency = recency_of(policy)
        streams = self._streams(stream, memory, recency != 0)
        keys, first_keys = _keys(policy, streams, np.repeat(in_cache, np.diff(stream.offsets)), recency != 0)
        layer_of_entry = np.repeat(np.arange(trace.moe_layers, dtype=np.int32), trace.model.experts)
        sizes, layer_of = _by_cache(memory, memory.sizes), _by_cache(memory, layer_of_entry)
        weights = np.array(trace.model.expert_bytes or (1,) * trace.moe_layers, np.int64)
        missed, came, used = (np.zeros(size, np.int64) for size in (layers.size, *(guesses.targets.size,) * 2))

        limits = np.array([limit for _, _, limit in memory.caches], np.int64)
        demand = kernels.Demand(
            stream.steps, layers, in_cache, stream.epochs, stream.offsets, entries, stream.kinds, keys
        )
        ahead = kernels.Ahead(guesses.targets, guesses.issued, kinds[guesses.targets], guesses.offsets, guessed)
        counted = kernels.Tallied(table, evictions, missed, came, used)

        def run(plain: bool) -> Any:
            loop, (*verbs, trims) = drive(kernels.prefetch_replay, policy, streams, plain, recency)
            setting = kernels.Setting(
                sizes, layer_of, limits, weights, first_keys, recency, self.cap, settings.mandatory, trims
            )
            held = kernels.PrefetchHeld.empty(setting, demand, ahead)
            return loop(demand, ahead, setting, held, _states(policy, streams, sizes), *verbs, counted)

        fault = run_told(policy, run)
        if fault == kernels.NO_VICTIM:
            raise ValueError(f"policy '{policy.label}' chose a victim that it may not; correct its victim()")
        return missed, came, used

    def _streams(self, stream: Stream, memory: Memory, clock: bool) -> list[Stream]:
        """The accesses of each cache, without the guesses; none under a clock, which asks for no keys."""
        course, none = Course.of(stream), np.zeros(0, np.int32)
        items = Items(none, none, np.zeros(0, np.uint8)) if clock else Items.of_stream(stream)
        return [
            stream_of_cache(items.take(items.within(first, past)), memory, index, course)
            for index, (first, past, _) in enumerate(memory.caches)
        ]


def _keys(policy: Policy, streams: list[Stream], of_lookup: npt.NDArray[np.int32], clock: bool) -> tuple[Longs, Longs]:
    """Keys of a stack policy: int64[N] in execution order, and int64[1 or epochs, caches, n] before the first use
    (neither matters under a clock, but that there are some)."""
    n = max(stream.n_entries for stream in streams)
    if clock or not isinstance(policy, StackPolicy):
        return np.zeros(int(clock), np.int64), np.zeros((1, len(streams), n), np.int64)
    raw = [keys_of(policy, stream) for stream in streams]
    keys = np.empty(of_lookup.size, np.int64)
    keys[np.argsort(of_lookup.astype(np.uint16), kind="stable")] = np.concatenate([sortable(one) for one in raw])
    first = [
        sortable(policy.preload_keys(stream, np.arange(stream.n_entries, dtype=np.int32), one.dtype))
        for stream, one in zip(streams, raw, strict=True)
    ]
    first_keys = np.zeros((first[0].shape[0], len(streams), n), np.int64)
    for index, one in enumerate(first):
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


DEFAULT_PREDICTORS = ("previous", "frequent", "oracle")


def prefetch(
    trace: TraceLike,
    cache: int | None = None,
    budget: int | str | None = None,
    memory: int | str | None = None,
    reserve: int | str | Sequence[int | str] = (),
    predictor: str | Sequence[str] = DEFAULT_PREDICTORS,
    depth: int = 1,
    cap: int | str | None = None,
    guesses: int | None = None,
    recall: float | None = None,
    precision: float | None = None,
    seed: int = 0,
    train: TraceLike | None = None,
    train_share: float | None = None,
    policy: str | Sequence[str] = "lru",
    scope: str = "layer",
    admission: str = "mandatory",
    reset: str = "never",
    phase: str = "all",
    warmup: int = 0,
    expert_bytes: int | str | Sequence[int] | None = None,
    device: str | Path | Device | None = None,
    model: str | Path | SizedModel | None = None,
    quant: str | None = None,
    lanes: int | None = None,
    context: int | None = None,
    compute_ms: float | None = None,
    misses_from: str | None = None,
    host: Any = None,
    storage: Any = None,
    engine: Any = None,
) -> PrefetchReport:
    """Replay a trace through a cache into which a predictor loads experts ahead of their layer, and count.

    predictor, each replayed with each policy:

    * `previous`: the experts of the last group at that layer, the most recently wanted first;
    * `frequent`: those that most groups so far wanted there, or that were chosen most often in what is trained on;
    * `transition`: those that most often followed the experts now running, `depth` layers earlier, in what is trained
      on (the sum, over the running experts, of the share of their tokens that the expert followed);
    * `lookahead`: what the layer's router says on the input of the layer `depth` earlier, for all tokens of the step,
      which the trace must have recorded (`capture --ahead`);
    * `oracle`: exactly the group, also across the border of two steps;
    * `noisy`: each member of the group with probability `recall`, and so many other experts, drawn with `seed`, that
      the share of right ones among all named is `precision`.

    depth: how many layers ahead, at most the number of MoE layers. cap: bytes that may be prefetched in a step, None
    for any. guesses: how many experts the first four name for a group (default: the layer's top_k; of lookahead all
    that the tokens of the step name). train: a trace to
    learn from; or train_share: the first share of the steps is only learned from: replayed, neither guessed nor
    counted. cache, budget, memory, reserve, policy, scope, admission, reset (which makes predictors forget, too),
    phase, warmup and expert_bytes as in `replay`. What the counts mean: `prefetch_results.PrefetchCounts`; order is
    always `set`. device, model, quant, lanes, context, compute_ms, misses_from, host, storage, engine: as in `replay`,
    which adds times; hits are computed while reads are under way.

    Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
    """
    settings = Settings(scope=scope, admission=admission, reset=reset, phase=phase, warmup=warmup)
    predictors = _predictors(predictor, recall, precision, train is not None, train_share is not None)
    if parse_count(seed, "seed") and "noisy" not in predictors:
        raise ValueError(f"seed {seed} changes nothing without chance; give it with predictor noisy")
    policies = find_policies(policy)
    for one in policies:
        check_drivable(one, "prefetch")
    check_policies(policies, settings, trained=False)
    limit = Limit.of(cache, budget, memory)
    on = RunsOn.asked(
        device=device, model=model, quant=quant, lanes=lanes, context=context, compute_ms=compute_ms,
        misses_from=misses_from, host=host, storage=storage, engine=engine,
    )  # fmt: skip
    if misses_from == "cpu":
        raise ValueError("what the CPU computes is not loaded, so there is nothing to prefetch; give host or storage")
    call = Call.of(
        trace,
        settings=settings,
        policies=policies,
        limit=limit,
        reserve=reserve,
        on=None if on is None else replace(on, overlap="prefetch"),
        expert_bytes=expert_bytes,
        needed_for="a byte budget" if limit.budget is not None else "a byte cap" if cap is not None else "",
    )
    trace = call.trace
    depth = parse_count(depth, "depth")
    if not 1 <= depth <= trace.moe_layers:
        raise ValueError(f"depth {depth} is not possible; give 1 to {trace.moe_layers}, the number of MoE layers")
    if "lookahead" in predictors and depth > trace.most_ahead:
        raise ValueError(_no_lookahead(trace, depth))
    tokens, learnt = _learning_part(call.tokens, train, train_share)
    call = replace(call, caches=replace(call.caches, tokens=tokens))
    known = Known(
        trace, tokens, call.caches.global_views(False).get(True), depth, learnt,
        None if guesses is None else parse_count(guesses, "guesses"),
        *_training(trace, tokens, learnt, train), *_noise(recall, precision), parse_count(seed, "seed"),
    )  # fmt: skip
    run = PrefetchRun(call, known, -1 if cap is None else parse_bytes(cap))
    bare = {one: run.result("none", one, Guesses.none()) for one in policies}
    results: list[PrefetchResult] = []
    for name in predictors:
        chosen = guess(name, known)  # as large as the trace, so of one predictor at a time
        results += [replace(run.result(name, one, chosen), without=bare[one]) for one in policies]
    return PrefetchReport(describe(trace), tuple(results))


def _predictors(given: str | Sequence[str], recall: object, precision: object, train: bool, share: bool) -> list[str]:
    """The names of predictors; ValueError for an unknown one, or one that lacks what it needs."""
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    for name in names:
        if name not in PREDICTORS:
            raise unknown("predictor", name, PREDICTORS)
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"predictor '{','.join(names)}' names one twice or none; name each once")
    if train and not {"transition", "frequent"} & set(names):
        raise ValueError("a trace to learn from changes nothing here; give train with predictor transition or frequent")
    if "transition" in names and not (train or share):
        raise ValueError(
            "predictor 'transition' learns from what came before; give --train other.parquet, or --train-share 0.5 to "
            "learn from the first half"
        )
    if ("noisy" in names) != (recall is not None and precision is not None) or (recall is None) != (precision is None):
        raise ValueError("predictor 'noisy', and no other, takes --recall and --precision; give both with it")
    return names


def _no_lookahead(trace: Trace, depth: int) -> str:
    if not trace.most_ahead:
        return (
            "predictor 'lookahead' replays what routers say ahead of their layer, and the trace has no such columns "
            f"(ahead1_NN); record it with: remoe-sim capture MODEL --prompts FILE --ahead {depth} -o trace.parquet"
        )
    return (
        f"the trace has look-ahead choices for at most {trace.most_ahead} MoE layers, so depth {depth} is not possible "
        f"with predictor 'lookahead'; give --depth {trace.most_ahead} or less, or record it with --ahead {depth}"
    )


def _noise(recall: float | None, precision: float | None) -> tuple[float, float]:
    if recall is None or precision is None:
        return 1.0, 1.0
    if parse_number(precision, "precision", 1) == 0:
        raise ValueError("precision 0 is not possible, as no number of wrong guesses makes it; give more than 0")
    return parse_number(recall, "recall", 1), parse_number(precision, "precision", 1)


def _learning_part(tokens: Tokens, train: object, share: float | str | None) -> tuple[Tokens, int]:
    """The tokens, those that are only learned from uncounted, and how many steps these are."""
    if share is None:
        return tokens, 0
    if train is not None:
        raise ValueError("--train and --train-share both say what to learn from; give one of them")
    steps = int(parse_number(share, "train share", 1) * tokens.n_steps)
    if tokens.n_steps and not 0 < steps < tokens.n_steps:
        nothing = "learns from no step" if not steps else "leaves no step to count"
        raise ValueError(f"train share {share} of {tokens.n_steps} steps {nothing}; give a share such as 0.5")
    kinds = tokens.kinds.copy()
    kinds[: tokens.starts[steps]] = WARMUP_LOOKUP
    return replace(tokens, kinds=kinds), steps


def _training(trace: Trace, tokens: Tokens, learnt: int, train: TraceLike | None) -> tuple[Trace | None, Preload]:
    """The trace to learn from, if it is another one, and how often experts were chosen in what is learned from."""
    if train is not None:
        other = as_trace(train)
        return other, Preload.of(trace, other)
    if not learnt:
        return None, Preload()
    rows = np.arange(trace.tokens) if tokens.rows is None else tokens.rows
    counts = []
    for index in range(trace.moe_layers):
        decisions = trace.decisions(index).take(rows[: tokens.starts[learnt]])
        chosen = decisions.experts.reshape(-1) if decisions.valid is None else decisions.experts[decisions.valid]
        counts.append(np.bincount(chosen, minlength=trace.model.experts[index]))
    return None, Preload(tuple(counts))
