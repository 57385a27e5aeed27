"""`synth`: draw a trace by chance, with the reuse that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.synthesis import ABSENT_TOKEN, DECODE_TOKEN, FIRST_TOKEN, PREFILL_TOKEN
from remoe_sim.synthetic.laws import (
    Drawing,
    DrawnLayers,
    Kinds,
    Law,
    fit_law,
    plain_law,
    tilt_to,
)  # fmt: skip
from remoe_sim.synthetic.targets import changed_alike, target_in_all, wanted_reuse
from remoe_sim.trace.holdings import of_decisions
from remoe_sim.trace.metrics import adjacent_reuse, decode_order, layer_reuse
from remoe_sim.trace.reader import RESIDENT_BYTES, as_trace
from remoe_sim.trace.schedule import steps_of
from remoe_sim.trace.sources import layers_stage
from remoe_sim.trace.trace import DECODE, PREFILL, Decisions, InMemory, Model, Trace, TraceLike
from remoe_sim.util.progress import stage
from remoe_sim.util.threads import map_layers
from remoe_sim.util.units import parse_bytes, parse_count, parse_number


def by_request(real: Trace) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Rows with the tokens of a request together, requests in order of appearance, and where each request begins."""
    turns = np.flatnonzero(np.diff(real.request)) + 1
    if turns.size + 1 == real.requests:
        return np.arange(real.tokens, dtype=np.int32), np.concatenate([[0], turns, [real.tokens]])
    _, first, inverse = np.unique(real.request, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[inverse]
    order = np.lexsort((real.position, rank)).astype(np.int32)
    return order, np.concatenate([[0], np.cumsum(np.bincount(rank))])


def requests_like(
    bounds: npt.NDArray[np.int64], tokens: int | None, seed: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For every token its place in the order of the real trace and its request: the same requests, or, if another
    number of tokens is wanted, requests drawn at random, the last cut where it is too long."""
    lengths = np.diff(bounds)
    if tokens is None or tokens == bounds[-1]:
        return np.arange(bounds[-1], dtype=np.int32), np.repeat(np.arange(lengths.size, dtype=np.int32), lengths)
    rng = np.random.RandomState(seed % 2**32)
    drawn = np.zeros(0, np.int64)
    while (short := tokens - int(lengths[drawn].sum())) > 0:
        drawn = np.append(drawn, rng.randint(lengths.size, size=int(short // lengths.mean()) + 1))
    ends = np.cumsum(lengths[drawn])
    drawn = drawn[: int(np.searchsorted(ends, tokens)) + 1]
    request = np.repeat(np.arange(drawn.size, dtype=np.int32), lengths[drawn])[:tokens]
    shift = (bounds[drawn] - (ends[: drawn.size] - lengths[drawn])).astype(np.int32)
    return np.arange(tokens, dtype=np.int32) + shift[request], request


def kinds_of(request: npt.NDArray[np.int32], phase: npt.NDArray[np.uint8]) -> Kinds:
    """uint8[tokens]: the kinds that `remoe_sim.kernels.synthesis` tells apart."""
    kinds = np.where(phase == DECODE, np.uint8(DECODE_TOKEN), np.uint8(PREFILL_TOKEN))
    kinds[1:][request[1:] != request[:-1]] = FIRST_TOKEN
    kinds[:1] = FIRST_TOKEN
    return kinds


_SHAPE = ("layers", "experts", "top_k", "model", "quant")
SAMPLE = 2**16  # tokens of a real trace that are fitted, and of a synthetic one whose reuse is measured
MISSED = 0.01  # of adjacent reuse, from which on a target counts as not reached
SEEDS = 2**20  # apart, those of one layer and the next
MOST_TOKENS = 2**31 - 1


def synth(
    like: TraceLike | None = None,
    tokens: int | float | str | None = None,
    reuse: float | str | Sequence[float] | None = None,
    seed: int | str = 0,
    *,
    layers: int | str | None = None,
    experts: int | str | None = None,
    top_k: int | str | None = None,
    model: str | None = None,
    quant: str | None = None,
    skew: float | str | Sequence[float] | None = None,
    request_tokens: int | str | None = None,
    prompt_tokens: int | str | None = None,
    expert_bytes: int | str | None = None,
    name: str | None = None,
    toward: TraceLike | None = None,
) -> Trace:
    """A synthetic trace; the same arguments always give the same one.

    like: a trace whose popularity, stack depths (and with them LRU's hits at every capacity) and adjacent reuse are
    fitted, layer by layer, on its first 65,536 tokens; requests have lengths and prompts of its requests. tokens: how
    many; as many as `like` has by default, else 10,000. reuse: adjacent reuse of decode tokens, 0.4 by default; with
    `like` also "1.26x" or "+0.07", as much more than it has: the odds of reuse then change alike in all layers.
    toward: what `like` was tuned to, of the same shape: popularity and stack depths are then those of `toward`, and the
    odds of reuse change in each layer as from `like` to it; the same call without it draws the original.
    With `like`, model (and quant) or layers, experts and top_k draw in another shape: each layer, expert and depth
    takes after that at the same share of the way. Without `like`: layers (16), experts (64) and top_k (6), or model
    (and quant), a name that `list models` shows; skew: popularity falls as rank to the power -skew (0.5); skew and
    reuse may be one per MoE layer; request_tokens (512) and of these prompt_tokens (128), one prefill step. Every
    decode token is a step, requests follow one another.

    A large trace is drawn when it is read or written, and never held in memory whole. Raises ValueError for arguments
    that are not possible, such as reuse that these experts cannot have.
    """
    seed = parse_count(seed, "seed")
    shaped = {"layers": layers, "experts": experts, "top_k": top_k, "model": model, "quant": quant, "skew": skew,
              "request_tokens": request_tokens, "prompt_tokens": prompt_tokens}  # fmt: skip
    count = None if tokens is None else _tokens(tokens)
    if like is None:
        if toward is not None:
            raise ValueError("'toward' is what 'like' was tuned to; give both")
        plan = _plain(shaped, count or 10_000, seed)
        wanted: list[float | None] = [*_per_layer("reuse", 0.4 if reuse is None else reuse, len(plan.laws), 1)]
    else:
        if extra := [name for name, value in shaped.items() if value is not None and name not in _SHAPE]:
            raise ValueError(f"{extra[0]} is taken from the trace that is given as 'like'; leave one of them out")
        real = as_trace(like)
        if not real.tokens:
            raise real.error("there are no tokens to be like")
        if reuse is not None and (now := adjacent_reuse(real)) is not None:
            target_in_all(str(reuse), now)  # fitting takes long: what cannot be is refused before
        with layers_stage("fitting", real):
            described = _shape_of(real, shaped)
            shape = None if described is None else (described[0].experts[0], described[0].top_k[0])
            plan = _fitted(real, count, seed, shape)
        wanted = wanted_reuse(plan.reuse, plan.weights(), reuse)
        if toward is not None:
            plan, wanted = _turned(plan, wanted, as_trace(toward), seed, shape)
        if described is not None:
            plan, wanted = _reshaped(plan, wanted, *described, seed)
    with stage("tuning reuse", len(plan.laws), "layers"):
        laws = _tilted(plan, wanted)
    trace = replace(plan.trace, source=replace(plan.drawn, laws=laws))
    facts: dict[str, Any] = {} if name is None else {"name": name}
    if expert_bytes is not None:
        facts["expert_bytes"] = (parse_bytes(expert_bytes),) * trace.moe_layers
    trace = replace(trace, model=replace(trace.model, **facts))
    if trace.tokens * sum(trace.model.top_k) * 2 <= RESIDENT_BYTES:
        with stage("drawing", trace.moe_layers, "layers"):
            drawn = list(map_layers(trace.source.decisions, trace.moe_layers))
        trace = replace(trace, source=InMemory(drawn))
    return trace


@dataclass(frozen=True)
class _Drawing:
    """What is to be drawn: a trace without decisions and where they come from; laws before they are tilted; per layer
    the adjacent reuse of what they were fitted to."""

    trace: Trace
    drawn: DrawnLayers
    laws: Sequence[Law]
    reuse: Sequence[float | None] = ()

    def sample(self) -> Trace:
        """The beginning, as much as reuse is measured on."""
        here, whole = slice(0, SAMPLE), self.trace
        columns = {name: getattr(whole, name)[here] for name in ("request", "position", "step", "phase")}
        return replace(whole, **columns)

    def weights(self) -> list[int]:
        """Per layer, how many slots of the beginning could be shared with the token before."""
        sample = self.sample()
        order = decode_order(sample)
        slots = []
        for index, law in enumerate(self.laws):
            routed = self.drawn.kinds_at(index, slice(0, SAMPLE)) <= DECODE_TOKEN
            blank = np.zeros((sample.tokens, law.top_k), np.uint16)
            slots.append(layer_reuse(sample, index, Decisions(blank, None, routed), order).wanted)
        return slots


def _tokens(given: int | float | str) -> int:
    number = parse_number(given, "tokens", MOST_TOKENS)
    if number < 1 or number != int(number):
        raise ValueError(f"tokens '{given}' is not possible; give a whole number from 1, such as 20000 or 50e6")
    return int(number)


def _per_layer(what: str, given: Any, layers: int, most: float) -> list[float]:
    """One number per MoE layer."""
    listed = given.split(",") if isinstance(given, str) else list(np.atleast_1d(given))
    values = [parse_number(one, what, most) for one in listed]
    if len(values) not in (1, layers):
        raise ValueError(f"{what} has {len(values)} values for {layers} MoE layers; give one, or one for each")
    return values * layers if len(values) == 1 else values


def _plain(shaped: dict[str, Any], tokens: int, seed: int) -> _Drawing:
    """Requests all alike, layers of one shape."""
    described, numbers = _described(shaped)
    skew = _per_layer("skew", 0.5 if shaped["skew"] is None else shaped["skew"], len(numbers), 10)
    length = _count(shaped, "request_tokens", 512)
    prompt = min(_count(shaped, "prompt_tokens", 128, least=0), length)
    rows = np.arange(tokens, dtype=np.int32)
    request, position = rows // length, rows % length
    phase = np.where(position < prompt, np.uint8(PREFILL), np.uint8(DECODE))
    text = f"synthetic, seed {seed}: not recorded from any model; skew {_few(skew)}"
    trace = _empty(request, position, phase, numbers, described, text, {"format": "synthetic"})
    seeds = _seeds(seed, len(numbers))
    laws = [plain_law(described.experts[at], described.top_k[at], skew[at], seeds[at]) for at in range(len(numbers))]
    return _Drawing(trace, DrawnLayers(laws, seeds, kinds_of(request, phase)), laws)


def _described(shaped: dict[str, Any]) -> tuple[Model, tuple[int, ...]]:
    """The model, and the numbers of its MoE layers."""
    if shaped["model"] is None:
        if shaped["quant"] is not None:
            raise ValueError("quant belongs to a model; give its name as well, or leave quant out")
        count, k = _count(shaped, "layers", 16), _count(shaped, "top_k", 6)
        experts = _count(shaped, "experts", 64)
        if k > experts:
            raise ValueError(
                f"top_k {k} is not possible; give a whole number from 1 to {experts}, the experts of a layer"
            )
        return Model((experts,) * count, (k,) * count, f"synthetic-{count}x{experts}-top{k}", count), tuple(
            range(count)
        )
    for name in ("layers", "experts", "top_k"):
        if shaped[name] is not None:
            raise ValueError(f"{name} is that of the model; leave one of them out")
    from remoe_sim.models.model import model

    card = model(shaped["model"], shaped["quant"])
    count = len(card.moe_layers)
    described = Model(
        (card.experts,) * count, (card.top_k,) * count, f"synthetic-{card.name}", card.layers, card.expert_bytes,
        card.dense_bytes, card.quant,
    )  # fmt: skip
    return described, card.moe_layers


def _count(shaped: dict[str, Any], name: str, usual: int, least: int = 1) -> int:
    count = usual if shaped[name] is None else parse_count(shaped[name], name)
    if not least <= count <= MOST_TOKENS:
        raise ValueError(f"{name} {count} is not possible; give a whole number from {least} to {MOST_TOKENS}")
    return count


def _fitted(real: Trace, tokens: int | None, seed: int, shape: tuple[int, int] | None = None) -> _Drawing:
    """Laws and requests like those of a real trace; shape: experts and experts per token, if others."""
    order, bounds = by_request(real)
    fitted = order[:SAMPLE]
    kinds = kinds_of(real.request[fitted], real.phase[fitted])
    seeds = _seeds(seed, real.moe_layers)
    pairs = decode_order(real)

    def one_layer(index: int) -> tuple[Law, float | None, npt.NDArray[np.bool_] | None]:
        decisions = real.decisions(index)
        found = layer_reuse(real, index, decisions, pairs)
        here = decisions.take(fitted.astype(np.int64))
        absent = None if decisions.routed is None else ~decisions.routed
        seen = kinds if absent is None else np.where(absent[fitted], np.uint8(ABSENT_TOKEN), kinds)
        law = fit_law(here, seen, real.model.experts[index], seeds[index] + 1, shape)
        return law, found.shared[0] / found.wanted if found.wanted else None, absent

    laws, reuse, absent = zip(*map_layers(one_layer, real.moe_layers, of_decisions(real)), strict=True)
    rows, request = requests_like(bounds, tokens, seed)
    rows = order[rows]
    phase = real.phase[rows]
    about = f"synthetic, seed {seed}: drawn like {Path(real.path).name or 'another trace'}, not recorded from any model"
    origin = {"format": "synthetic", "path": Path(real.path).name or None, "like": real.origin}
    name = "synthetic" if real.model.name is None else f"synthetic-{real.model.name.removeprefix('synthetic-')}"
    trace = _empty(
        request, real.position[rows], phase, real.layer_numbers, replace(real.model, name=name), about, origin
    )
    return _Drawing(trace, DrawnLayers(laws, seeds, kinds_of(request, phase), rows, absent), laws, reuse)


def _turned(
    plan: _Drawing, wanted: Sequence[float | None], tuned: Trace, seed: int, shape: tuple[int, int] | None
) -> tuple[_Drawing, list[float | None]]:
    """With the laws of the tuned trace, and the odds of reuse changed in each layer as they are there."""
    if (tuned.model.experts, tuned.model.top_k) != (plan.trace.model.experts, plan.trace.model.top_k):
        raise tuned.error("'toward' differs from 'like' in layers, experts or top-k; give the same model, tuned")
    with layers_stage("fitting", tuned):
        after = _fitted(tuned, 1, seed, shape)
    return replace(plan, laws=after.laws), changed_alike(wanted, plan.reuse, after.reuse)


def _shape_of(real: Trace, shaped: dict[str, Any]) -> tuple[Model, tuple[int, ...]] | None:
    """The model in whose shape a real trace is drawn, and the numbers of its MoE layers; None for its own."""
    if all(shaped[name] is None for name in _SHAPE):
        return None
    if shaped["model"] is None:
        here = {"layers": real.moe_layers, "experts": max(real.model.experts), "top_k": max(real.model.top_k)}
        shaped = {**shaped, **{name: shaped[name] if shaped[name] is not None else here[name] for name in here}}
    return _described(shaped)


def _reshaped(
    plan: _Drawing, wanted: Sequence[float | None], model: Model, numbers: tuple[int, ...], seed: int
) -> tuple[_Drawing, list[float | None]]:
    """The same requests in another shape, where each layer takes after that at the same share of the depth."""
    like = [at * len(plan.laws) // len(numbers) for at in range(len(numbers))]
    laws, seeds = [plan.laws[at] for at in like], _seeds(seed, len(numbers))
    trace = replace(plan.trace, layer_numbers=numbers, model=model)
    return _Drawing(trace, DrawnLayers(laws, seeds, plan.drawn.kinds), laws), [wanted[at] for at in like]


def _empty(request: Any, position: Any, phase: Any, numbers: Any, model: Model, notes: str, origin: Any) -> Trace:
    """A trace without decisions."""
    about = "; each decode token is a step of its own, the prompt of a request is one prefill step"
    return Trace(
        request=request,
        position=position.astype(np.int32, copy=False),
        step=steps_of(request, phase),
        phase=phase,
        layer_numbers=numbers,
        model=model,
        source=InMemory([]),
        origin={"path": None, "sha256": None} | origin,
        notes=notes + about,
    )


def _seeds(seed: int, layers: int) -> list[int]:
    """One for each layer, so that a layer does not depend on how many there are."""
    return [(seed * 1009 + index) * SEEDS for index in range(layers)]


def _few(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _tilted(plan: _Drawing, wanted: Sequence[float | None]) -> Sequence[Law]:
    """The laws, changed so that the beginning, as it is drawn, has the wanted reuse; ValueError if none has."""
    sample = plan.sample()
    order = decode_order(sample)

    def one_layer(index: int) -> tuple[Law, float, int]:
        kinds = plan.drawn.kinds_at(index, slice(0, SAMPLE))
        routed = kinds <= DECODE_TOKEN
        total = 0

        def measure(law: Law) -> float:
            nonlocal total
            drawn = Drawing(law, plan.drawn.seeds[index]).draw(kinds)
            found = layer_reuse(sample, index, Decisions(drawn, None, routed), order)
            total = found.wanted
            return found.shared[0] / found.wanted if found.wanted else 0.0

        target = wanted[index]
        if target is None:
            return plan.laws[index], 0.0, 0
        law, reached = tilt_to(plan.laws[index], target, measure)
        return law, reached, total

    laws, reached, slots = zip(*map_layers(one_layer, len(plan.laws)), strict=True)
    total = sum(slots)
    off = sum(slots[at] * (reached[at] - (wanted[at] or 0.0)) for at in range(len(slots))) / total if total else 0.0
    if abs(off) > MISSED:
        got = sum(a * b for a, b in zip(reached, slots, strict=True)) / total
        raise ValueError(
            f"adjacent reuse of {got - off:.4g} is not possible with these experts, the nearest is {got:.4g}; "
            "give that, or change top_k or experts"
        )
    return laws
