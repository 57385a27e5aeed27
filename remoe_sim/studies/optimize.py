"""`optimize`: what a cache does best, chosen on one part of the requests and judged on the other."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.call import Call
from remoe_sim.cache.curve import layer_curves
from remoe_sim.cache.engine_cache import FROM_CARD, engine_cache
from remoe_sim.cache.learning import DEFAULT_SHARE, parted
from remoe_sim.cache.replay import runs_on, tallied_by
from remoe_sim.cache.results import describe
from remoe_sim.cache.settings import Limit, Settings, check_policies, find_policies
from remoe_sim.policy.stack import StackPolicy
from remoe_sim.studies.bootstrap import Ratios, differences
from remoe_sim.studies.fit_result import cache_flags
from remoe_sim.studies.optimize_result import Judged, OptimizeReport, Step
from remoe_sim.studies.split import Knapsack
from remoe_sim.trace.reader import as_trace
from remoe_sim.util.cards import card_names
from remoe_sim.util.progress import stage

if TYPE_CHECKING:
    from remoe_sim.trace.trace import Trace, TraceLike
    from remoe_sim.util.arrays import Reals

POLICIES = (
    "lru", "lfu", "lfu-aged", "fifo", "clock", "sieve", "s3fifo", "slru", "arc", "2q", "lru-k", "w-tinylfu",
    "least-stale", "class-lru", "lfru", "static", "hot+lru",
)  # fmt: skip
PARAMETERS = (
    "lfu-aged:half_life=64", "lfu-aged:half_life=256", "lfu-aged:half_life=1024", "slru:segments=2", "lru-k:k=3",
)  # fmt: skip
PINS = ("hot:10%", "hot:25%", "hot:50%")
PLAIN = "policy"  # the step that needs no interval: each policy as it comes
ALPHA, RESAMPLES = 0.05, 1999


@dataclass(frozen=True)
class CacheChoice:
    """What a replay is asked for. learnt: whether curves of what is learnt from divide the room among layers."""

    policy: str = "lru"
    scope: str = "layer"
    admission: str = "mandatory"
    pin: str | None = None
    admit_after: int = 1
    inserts: int | None = None
    learnt: bool = False
    timing: tuple[tuple[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with what modelled times depend on."""
        names = ("policy", "scope", "admission", "pin", "admit_after", "inserts")
        return {**{name: getattr(self, name) for name in names}, "division": self.learnt, **dict(self.timing)}


def optimize(
    trace: TraceLike,
    cache: int | None = None,
    budget: int | str | None = None,
    memory: int | str | None = None,
    reserve: int | str | Sequence[int | str] = (),
    policy: str | Sequence[str] | None = None,
    reset: str = "never",
    phase: str = "all",
    expert_bytes: int | str | Sequence[int] | None = None,
    device: Any = None,
    host: Any = None,
    storage: Any = None,
    engine: Any = None,
    model: Any = None,
    quant: str | Sequence[str] | None = None,
    train_share: float | str = DEFAULT_SHARE,
    train_seed: int | str = 0,
) -> OptimizeReport:
    """Search for what a cache of a given size does best.

    Starts from LRU in a cache per layer and takes one step after another: the policy with its scope, its parameters,
    admission, a division among layers (exact, from curves of all capacities), pinned experts, caps on admission; with
    a device also its overlap, the share of misses that the CPU computes, and quantisations, where several are named.
    The aim is the fewest misses, or the least modelled time with a device. A step is taken only where it gains on
    requests that it did not learn from: within train_share of the requests, each half is judged with what the other
    half teaches, and the 95 % interval of the gain leaves zero out; where requests are too few for one, only the best
    plain policy is taken. The result is then judged once on all other requests, against LRU, the best plain policy and
    Belady.

    cache, budget, memory, reserve: the limit, as in `replay`; cache counts experts per layer. policy: candidates, all
    of the package's own that are cheap to replay if None. A trace of one request is cut by its steps.

    Examples
    --------
    >>> report = remoe_sim.optimize("sample:qwen-original", cache=8, policy="lru,lfu")  # doctest: +SKIP
    >>> report.choice["policy"]  # doctest: +SKIP
    'lfu'

    Raises ValueError and TraceError like `replay`.
    """
    whole = as_trace(trace)
    quants = [one for one in quant.split(",") if one] if isinstance(quant, str) else list(quant or ())
    timing = {"device": device, "host": host, "storage": storage, "engine": engine, "model": model}
    if device is None and any(one is not None for one in (*timing.values(), quant)):
        raise ValueError("host, storage, engine, model and quant go with a device; name one with --device")
    base = CacheChoice(timing=(("quant", quants[0]),) if quants else ())
    limit = Limit.of(cache, budget, memory)
    wanted = POLICIES if policy is None else tuple(one.label for one in find_policies(policy))
    fixed = {"reset": reset, "phase": phase}
    train, judged = parted(whole, train_share, train_seed)
    asked = _Asked(limit, reserve, expert_bytes, fixed, timing)
    halves = parted(train, 0.5, train_seed)
    folds = [_Fold(asked, *halves), _Fold(asked, halves[1], halves[0])]
    search = _Search(folds, base)
    parameters = PARAMETERS if policy is None else ()
    for fold in folds:
        fold.figures(base)  # what is not possible at all is said here
    with stage("optimising"):
        plain = search.best_plain(wanted)
        search.take(PLAIN, plain)
        search.take("scope and policy", [replace(one, scope="global") for one in _named(base, wanted)])
        search.vary("policy parameters", policy=[one for one in parameters if one.split(":")[0] == search.best.policy])
        search.vary("admission", admission=["bypass"])
        if search.best.scope == "layer":
            search.vary("division", learnt=[True])
        search.vary("pins", pin=PINS)
        search.vary("admit after", admit_after=[2, 3])
        search.vary("inserts", inserts=[1, 2, 4])
        if device is not None:
            search.time("overlap", ["none", "prefetch"])
            search.time("cpu_share", ["auto"])
            search.time("quant", quants[1:])
    fold = _Fold(asked, train, judged)
    capped = search.best.admit_after > 1 or search.best.inserts is not None
    belady = replace(
        search.best, policy="belady", admission="bypass" if capped else search.best.admission, admit_after=1,
        inserts=None, learnt=False,
    )  # fmt: skip
    of = {"lru": base, "best plain": plain[0], "choice": search.best, "belady": belady}
    figures = {name: fold.figures(one) for name, one in of.items()}
    lines = tuple(_judged(name, of[name], figures[name], figures["lru"], figures["choice"]) for name in of)
    division = fold.division(search.best) if search.best.learnt else None
    held = asked.call(judged, train, replace(base, timing=search.best.timing), None).limit
    assert held is not None
    return OptimizeReport(
        trace=describe(whole),
        minimise="misses" if device is None else "modelled time",
        limit=limit.to_dict(True),
        trained_requests=train.requests,
        judged_requests=judged.requests,
        by_steps=whole.requests == 1,
        steps=tuple(search.steps),
        choice=search.best.to_dict(),
        division=None if division is None else dict(zip(whole.layer_numbers, division, strict=True)),
        judged=lines,
        engines=_engines(search.best, held, train),
        command=_command(whole, asked, search.best, division, train_share, train_seed, (cache, budget, memory)),
    )


def _named(base: CacheChoice, policies: Sequence[str]) -> list[CacheChoice]:
    """One choice per policy, under the admission that it exists under."""
    found = find_policies(list(policies))
    return [
        replace(base, policy=text, admission="mandatory" if "mandatory" in one.admissions else "bypass")
        for text, one in zip(policies, found, strict=True)
    ]


@dataclass(frozen=True)
class _Asked:
    """What is the same for all choices."""

    limit: Limit
    reserve: Any
    expert_bytes: Any
    fixed: dict[str, Any]
    timing: dict[str, Any]

    def call(self, trace: Trace, train: Trace, choice: CacheChoice, division: tuple[int, ...] | None) -> Call:
        """The call that a choice is."""
        policies = find_policies([choice.policy])
        settings = Settings(
            scope=choice.scope, admission=choice.admission, admit_after=choice.admit_after, inserts=choice.inserts,
            **self.fixed,
        )  # fmt: skip
        check_policies(policies, settings, trained=True)
        return Call.of(
            trace, settings=settings, policies=policies, limit=_limit_of(self.limit, trace, choice, division),
            reserve=() if division else self.reserve, on=runs_on({**self.timing, **dict(choice.timing)}),
            expert_bytes=self.expert_bytes, pin=choice.pin, train=train,
        )  # fmt: skip


def _limit_of(limit: Limit, trace: Trace, choice: CacheChoice, division: tuple[int, ...] | None) -> Limit:
    """The same room under each scope; a cache of N experts per layer is N times the layers in all."""
    if division is not None:
        return Limit(division=division)
    if choice.scope == "global" and limit.experts is not None:
        return Limit(limit.experts * trace.moe_layers)
    return limit


@dataclass
class _Fold:
    """What is learnt from and what is judged; figures are kept."""

    asked: _Asked
    learnt_from: Trace
    judges: Trace
    kept: dict[CacheChoice, tuple[Reals, Reals]] = field(default_factory=dict)

    def figures(self, choice: CacheChoice) -> tuple[Reals, Reals]:
        """float64[requests] each: misses, or seconds, and lookups or tokens, of the requests that are judged."""
        if choice not in self.kept:
            division = self.division(choice) if choice.learnt else None
            call = self.asked.call(self.judges, self.learnt_from, choice, division)
            self.kept[choice] = _by_request(call)
        return self.kept[choice]

    def division(self, choice: CacheChoice) -> tuple[int, ...]:
        """The best division of the room among the layers, on what is learnt from."""
        call = self.asked.call(self.learnt_from, self.learnt_from, replace(choice, learnt=False, pin=None), None)
        trace, limit = call.trace, call.limit
        assert limit is not None
        if not isinstance(call.policies[0], StackPolicy) or call.settings.capped:
            raise ValueError(f"a division of policy '{choice.policy}' takes a replay per capacity")
        of_layers = [one[0] for one in layer_curves(call.caches, call.policies)]
        costs = [lookups.sum() - hits.sum(axis=0) for lookups, hits in of_layers]
        sizes = trace.model.expert_bytes or (1,) * trace.moe_layers
        weights = (1,) * trace.moe_layers if limit.budget is None else sizes
        total = limit.budget if limit.budget is not None else (limit.experts or 0) * trace.moe_layers
        equal = tuple(min(limit.for_layer(trace, at), most) for at, most in enumerate(trace.model.experts))
        problem = Knapsack(costs, weights, total)
        return problem.best(problem.greedy(), equal)


def _engines(choice: CacheChoice, limit: Limit, trace: Trace) -> tuple[dict[str, Any], ...]:
    """Engines whose own cache is the one chosen, with flags as far as they are known; nobody has run them."""
    if choice.learnt or choice.pin:
        return ()
    slots = {limit.for_layer(trace, at) for at in range(trace.moe_layers)} if trace.model.expert_bytes else set()
    flags = cache_flags(limit.experts or (slots.pop() if len(slots) == 1 else None), limit.budget)
    chosen = {name: getattr(choice, name) for name in FROM_CARD}
    plain = {name: getattr(CacheChoice(), name) for name in FROM_CARD}
    own = {name: engine_cache(name).settings for name in card_names("engine")}
    return tuple(
        {"engine": name, "flags": flags.get(name), "tested": False}
        for name, settings in own.items()
        if settings and {**plain, **settings} == chosen
    )


def _by_request(call: Call) -> tuple[Reals, Reals]:
    from remoe_sim.devices.step_counts import StepCounts

    trace, tokens, limit = call.trace, call.tokens, call.limit
    assert limit is not None
    counts = StepCounts(trace, tokens, 1)
    tallied_by(call, limit, counts)
    missed = counts.missed[0].sum(axis=1, dtype=np.int64).astype(np.float64)
    needed = counts.needed.sum(axis=1, dtype=np.int64).astype(np.float64)
    if call.on is not None and call.model is not None:
        missed = np.asarray(call.on.timed(trace, call.model, tokens, counts)[0].times.seconds, np.float64)
        needed = np.diff(tokens.starts).astype(np.float64)
    rows = tokens.starts[:-1] if tokens.rows is None else tokens.rows[tokens.starts[:-1]]
    _, place = np.unique(trace.request[rows], return_inverse=True)
    together = trace.step[1:][(trace.step[1:] == trace.step[:-1]) & (trace.request[1:] != trace.request[:-1])]
    if together.size:  # a step's time is not one request's, so that there is nothing to draw
        place = np.zeros_like(place)
    return np.bincount(place, missed).astype(np.float64), np.bincount(place, needed).astype(np.float64)


@dataclass
class _Search:
    """The best choice so far, and the steps that led to it."""

    folds: list[_Fold]
    best: CacheChoice
    steps: list[Step] = field(default_factory=list)

    def best_plain(self, policies: Sequence[str]) -> list[CacheChoice]:
        """All policies in a cache per layer, the best first."""
        choices = [one for one in _named(self.best, policies) if self._figures(one) is not None]
        return sorted(choices, key=self._total)

    def vary(self, name: str, **values: Sequence[Any]) -> None:
        """Try other values of one part of the choice."""
        ((part, several),) = values.items()
        self.take(name, [replace(self.best, **{part: one}) for one in several])

    def time(self, name: str, values: Sequence[Any]) -> None:
        """Try other values of what only times depend on."""
        kept = tuple(one for one in self.best.timing if one[0] != name)
        self.take(name, [replace(self.best, timing=(*kept, (name, one))) for one in values])

    def take(self, name: str, choices: Sequence[CacheChoice]) -> None:
        """Take the best of several choices if it gains; say what it gave either way."""
        found = [one for one in choices if self._figures(one) is not None]
        if not found:
            return
        before, first = self._figures(self.best), min(found, key=self._total)
        after = self._figures(first)
        assert before is not None
        assert after is not None
        gain = 1 - after[0].sum() / before[0].sum() if before[0].sum() else 0.0
        interval = _interval(before, after)
        taken = gain > 0 and (interval[1] < 0 if interval is not None else name == PLAIN)
        self.steps.append(Step(name, len(found), first.to_dict(), float(gain), bool(taken)))
        if taken:
            self.best = first

    def _total(self, choice: CacheChoice) -> float:
        found = self._figures(choice)
        assert found is not None
        return float(found[0].sum())

    def _figures(self, choice: CacheChoice) -> tuple[Reals, Reals] | None:
        """Over all requests of the part that is learnt from; None for what is not possible."""
        try:
            parts = [fold.figures(choice) for fold in self.folds]
        except ValueError:
            return None
        return np.concatenate([y for y, _ in parts]), np.concatenate([x for _, x in parts])


def _interval(a: tuple[Reals, Reals], b: tuple[Reals, Reals]) -> tuple[float, float] | None:
    """Of the paired difference b − a of the two ratios."""
    one, other = (Ratios(*(part[None] for part in side)) for side in (a, b))
    return differences(one, other, True, RESAMPLES, 0).interval(0, ALPHA)


def _judged(
    name: str, choice: CacheChoice, own: tuple[Reals, Reals], lru: tuple[Reals, Reals], best: tuple[Reals, Reals]
) -> Judged:
    """One line of the table; its difference from the choice is from the same requests."""
    of, value = float(lru[0].sum()), float(own[0].sum())
    interval = _interval(lru, own) if name != "lru" else None
    rate = of / float(lru[1].sum()) if of else None
    share = None if interval is None or rate is None else (-interval[1] / rate, -interval[0] / rate)
    saved = 1 - value / of if of else 0.0
    against = _interval(own, best) if name not in ("choice", "belady") else None
    worse = against is not None and against[0] > 0
    return Judged(name, choice.to_dict(), value, float(own[1].sum()), saved, share, worse)


def _command(
    trace: Trace, asked: _Asked, choice: CacheChoice, division: tuple[int, ...] | None, share: Any, seed: Any,
    limit: tuple[Any, Any, Any],
) -> str:  # fmt: skip
    """The command that replays the choice on the same requests."""
    words = ["remoe-sim", "replay", trace.path or "TRACE"]
    names = ("cache", "budget", "memory")
    (name, given), *_ = [(one, value) for one, value in zip(names, limit, strict=True) if value is not None]
    if name == "cache" and choice.scope == "global":
        given = int(given) * trace.moe_layers
    reserve = asked.reserve if isinstance(asked.reserve, str | int) else ",".join(map(str, asked.reserve))
    options: dict[str, Any] = {
        name: None if division else given,
        "division": ",".join(map(str, division)) if division else None,
        "reserve": None if division else reserve or None,
        "policy": choice.policy,
        "scope": choice.scope,
        "admission": choice.admission,
        "pin": choice.pin,
        "admit-after": choice.admit_after if choice.admit_after > 1 else None,
        "inserts": choice.inserts,
        **asked.fixed,
        **{one: getattr(value, "name", value) for one, value in asked.timing.items()},
        **{one.replace("_", "-"): value for one, value in choice.timing},
        "train-share": share,
        "train-seed": seed,
        "expert-bytes": _text(asked.expert_bytes),
    }
    words += [word for one, value in options.items() if value is not None for word in (f"--{one}", str(value))]
    return shlex.join(words)


def _text(sizes: Any) -> str | None:
    return None if sizes is None else str(sizes) if isinstance(sizes, str | int) else ",".join(map(str, sizes))
