"""Prefetching under the same accounting as `replay`: experts are guessed, loaded ahead, and evict others by the policy.

Time is counted in layers over all steps. When a step has settled its group at one layer, the guesses for the layer
`depth` places later are issued (the first layers of a step are guessed during the last ones of the step before; nothing
is guessed across a reset). Each guess, the surest first,

1. is `resident` already: nothing happens, and the policy is not told; or
2. is beyond the bytes that may be issued in the running step: `cap_refused`; or
3. finds no room, because all that would have to leave is in use by the running group or guessed for a group to come:
   `room_refused`; or
4. is loaded (`prefetched`): victims are chosen by the policy among the others, under either admission.

A demand miss may evict what was guessed, by the policy's order. What a wrong guess evicted is missing later, which is
how it is charged. A slot policy is told of a prefetch as of any load, and of the use as of a hit. A stack policy orders
by uses, and a prefetch is none: the expert has the key of its last use, or one behind all others; where the order is
by recency alone (lru, mru), loads count as recent. Belady keeps what is needed soonest and is no bound here.

Counts take every load to arrive in time. With a device the timeline tells what comes too late: guesses join the queue
of the link after what the issuing layer misses itself, wrong ones before right ones, and only these are waited for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from remoe_sim.caches import Caches
from remoe_sim.device_cards import Device
from remoe_sim.engine import describe
from remoe_sim.errors import unknown
from remoe_sim.kernels.tallies import WARMUP
from remoe_sim.model_sizes import SizedModel
from remoe_sim.predictors import PREDICTORS, Guesses, Known, guess
from remoe_sim.prefetch_results import PrefetchReport
from remoe_sim.prefetch_runs import PrefetchRun
from remoe_sim.preload import Preload
from remoe_sim.settings import Limit, Settings, check_policies, find_policies, known_sizes
from remoe_sim.streams import Tokens, select_tokens
from remoe_sim.timing import DeviceRun
from remoe_sim.trace import Trace
from remoe_sim.trace_reader import read_trace
from remoe_sim.units import parse_bytes, parse_count, parse_number
from remoe_sim.verbs import check_drivable

DEFAULT_PREDICTORS = ("previous", "frequent", "oracle")


def prefetch(
    trace: Trace | str | os.PathLike[str],
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
    train: Trace | str | os.PathLike[str] | None = None,
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
) -> PrefetchReport:
    """Replay a trace through a cache into which a predictor loads experts ahead of their layer, and count.

    predictor, each replayed with each policy:

    * `previous`: the experts of the last group at that layer, the most recently wanted first;
    * `frequent`: those that most groups so far wanted there, or that were chosen most often in what is trained on;
    * `transition`: those that most often followed the experts now running, `depth` layers earlier, in what is trained
      on (the sum, over the running experts, of the share of their tokens that the expert followed);
    * `oracle`: exactly the group, also across the border of two steps;
    * `noisy`: each member of the group with probability `recall`, and so many other experts, drawn with `seed`, that
      the share of right ones among all named is `precision`.

    depth: how many layers ahead, at most the number of MoE layers. cap: bytes that may be prefetched in a step, None
    for any. guesses: how many experts the first three name for a group (default: the layer's top_k). train: a trace to
    learn from; or train_share: the first share of the steps is only learned from: replayed, neither guessed nor
    counted. cache, budget, memory, reserve, policy, scope, admission, reset (which makes predictors forget, too),
    phase, warmup and expert_bytes as in `replay`. What the counts mean: `prefetch_results.PrefetchCounts`; order is
    always `set`. device, model, quant, lanes, context, compute_ms, misses_from: as in `replay`, which adds times; hits
    are computed while reads are under way.

    Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
    """
    settings = Settings(scope, admission, "set", reset, phase, warmup)
    predictors = _predictors(predictor, recall, precision, train is not None, train_share is not None)
    if parse_count(seed, "seed") and "noisy" not in predictors:
        raise ValueError(f"seed {seed} changes nothing without chance; give it with predictor noisy")
    policies = find_policies(policy)
    for one in policies:
        check_drivable(one, "prefetch")
    check_policies(policies, settings, trained=False)
    limit = Limit.of(cache, budget, memory)
    on = DeviceRun.asked(device, model, quant, "layer", lanes, context, compute_ms, misses_from)
    if misses_from == "cpu":
        raise ValueError("what the CPU computes is not loaded, so there is nothing to prefetch; give host or storage")
    trace = trace if isinstance(trace, Trace) else read_trace(trace)
    needs_sizes = "a byte budget" if limit.budget is not None else "a byte cap" if cap is not None else ""
    trace = known_sizes(trace, expert_bytes, "" if on is not None else needs_sizes)
    timing = None
    if on is not None:
        trace, sized = on.sized(trace)
        timing = replace(on, overlap="prefetch"), sized
    limit = limit.without_reserve(trace, reserve)
    depth = parse_count(depth, "depth")
    if not 1 <= depth <= trace.moe_layers:
        raise ValueError(f"depth {depth} is not possible; give 1 to {trace.moe_layers}, the number of MoE layers")
    tokens = select_tokens(trace, phase, reset, settings.warmup)
    tokens, learnt = _learning_part(tokens, train, train_share)
    caches = Caches(trace, settings, tokens)
    known = Known(
        trace, tokens, caches.global_views(False).get(True), depth, learnt,
        None if guesses is None else parse_count(guesses, "guesses"),
        *_training(trace, tokens, learnt, train), *_noise(recall, precision), parse_count(seed, "seed"),
    )  # fmt: skip
    run = PrefetchRun(caches, limit, known, -1 if cap is None else parse_bytes(cap), timing)
    chosen = {name: guess(name, known) for name in predictors}
    bare = {one: run.result("none", one, Guesses.none()) for one in policies}
    results = [
        replace(run.result(name, one, chosen[name]), without=bare[one]) for name in predictors for one in policies
    ]
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
    kinds[: tokens.starts[steps]] = WARMUP
    return replace(tokens, kinds=kinds), steps


def _training(
    trace: Trace, tokens: Tokens, learnt: int, train: Trace | str | os.PathLike[str] | None
) -> tuple[Trace | None, Preload]:
    """The trace to learn from, if it is another one, and how often experts were chosen in what is learned from."""
    if train is not None:
        other = train if isinstance(train, Trace) else read_trace(train)
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
