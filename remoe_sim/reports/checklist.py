"""What a result about expert caches must state (Zhang, *Reproducible Evaluation of MoE Expert Caching*, arXiv
2608.07911), filled in from a trace and a verdict. What cannot be known from them says `unknown`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.studies.verdict_result import Verdict, size_of
from remoe_sim.trace.prefixes import Prefixes, routing_prefixes
from remoe_sim.trace.trace import DECODE, PREFILL, Trace
from remoe_sim.util.units import format_bytes, percent, plural

if TYPE_CHECKING:
    from remoe_sim.cache.results import ReplayResult

UNKNOWN = "unknown"
ALIKE = 8  # tokens of a routing prefix that are no coincidence
Fact = tuple[str, str, str]


def reporting_block(trace: Trace, verdict: Verdict, sizes_of: str = "") -> list[Fact]:
    """Names, values and what they mean. `sizes_of`: where sizes of experts are from, if not from the trace."""
    return [
        *_protocol(trace, verdict),
        *_counting(verdict),
        *_regime(verdict),
        *_workload(trace, routing_prefixes(trace)),
        *_oracle(verdict),
        *_provenance(trace, sizes_of),
    ]


def _protocol(trace: Trace, verdict: Verdict) -> list[Fact]:
    of = verdict.settings
    atomic = of["order"] == "set"
    unit = "the distinct experts of one step at one layer, all at once" if atomic else "every slot of every decision"
    why = "Experts of one event never evict each other before they are used." if atomic else "Not event-atomic."
    admission = {
        "mandatory": "What a step needs enters the cache and pushes others out.",
        "bypass": "What a step needs may be computed from a workspace without entering the cache.",
    }
    scope = {"layer": "Every MoE layer has a cache of its own.", "global": "One cache holds experts of all layers."}
    phase = {"all": "prefill and decode", "decode": "decode only, into a cold cache", "prefill": "prefill only"}
    never = "The cache is kept from request to request."
    return [
        ("event unit", unit, why),
        _forward_passes(trace),
        ("admission", of["admission"], admission[of["admission"]]),
        ("scope", of["scope"], scope[of["scope"]]),
        ("cache", size_of(verdict), ""),
        ("reset", of["reset"], never if of["reset"] == "never" else "Emptied at every request."),
        ("replayed tokens", phase[of["phase"]], _warmup(of["warmup"])),
    ]  # fmt: skip


def _forward_passes(trace: Trace) -> Fact:
    """How tokens are batched in steps, as the trace has it, and what its notes say of where that is from."""
    _, sizes = np.unique(trace.step, return_counts=True)
    pairs = np.unique(np.stack([trace.step, trace.request]), axis=1)[0]
    together = int(np.unique(pairs, return_counts=True)[1].max(initial=0))
    decode = np.unique(trace.step[trace.phase == DECODE], return_counts=True)[1]
    schedule = trace.origin.get("schedule")
    said = "Scheduled anew: " + ", ".join(f"{key} {value}" for key, value in schedule.items()) if schedule else ""
    return (
        "forward passes",
        f"{sizes.size:,} steps of up to {plural(int(sizes.max(initial=0)), 'token')}, of up to "
        f"{plural(int(decode.max(initial=0)), 'decode token')}, of up to {plural(together, 'request')}",
        said or (f"Notes of the trace: {trace.notes}" if trace.notes else "The trace has no notes."),
    )


def _warmup(tokens: int) -> str:
    return f"The first {plural(tokens, 'decode token')} are not counted." if tokens else "None is left out as warm-up."


def _counting(verdict: Verdict) -> list[Fact]:
    best = verdict.best
    return [
        (
            "denominator of hit rates",
            f"{best.lookups:,} lookups: {best.prefill.lookups:,} of prefill, {best.decode.lookups:,} of decode",
            "A lookup is one distinct expert of an event; one that a decode token of the step wants counts as decode.",
        ),
        (
            "first uses",
            f"{best.cold_misses:,} lookups ({percent(best.cold_misses, best.lookups)})",
            "Cold misses: no cache avoids them. They are in the denominator.",
        ),
        (
            "bytes per output token",
            _bytes(best),
            f"Bytes of missed decode lookups of {best.policy} / {best.decode.tokens:,} decode tokens."
            if best.bytes_read_per_token is not None
            else "The trace has no expert sizes." if best.bytes_read is None else "There is no decode token.",
        ),
    ]  # fmt: skip


def _regime(verdict: Verdict) -> list[Fact]:
    what = "group / capacity of its layer" if verdict.settings["scope"] == "layer" else "step / capacity of the cache"
    rows = []
    for name in ("decode", "prefill"):
        one = verdict.regime[name]
        size = "the cache is empty" if one["mean"] is None else f"mean {one['mean']:.3f}, p95 {one['p95']:.3f}"
        above = f"{size}; {one['above_one']:,} of {one['groups']:,} events above one" if one["groups"] else "no events"
        rows.append((f"regime r, {name}", above, f"r = {what}. Above one no policy can do much."))
    return rows


def _workload(trace: Trace, prefixes: Prefixes) -> list[Fact]:
    decode = int(np.count_nonzero(trace.phase == DECODE))
    lengths = prefixes.lengths
    longest = int(prefixes.shared.max(initial=0))
    alike = prefixes.beginning_alike(ALIKE)
    prompts = int(np.unique(trace.request[trace.phase == PREFILL]).size)
    distinct = (
        UNKNOWN if prefixes.distinct_prompts is None else f"{prefixes.distinct_prompts:,} of {prefixes.prompts:,}"
    )
    why = "Compared by token id."
    if prefixes.distinct_prompts is None:
        why = "The trace has no token ids." if trace.token_id is None else "Not every request has its prompt here."
        why = "The trace has no prompts." if not prompts else why
    return [
        (
            "requests",
            f"{trace.requests:,}, of {_span(lengths)} tokens",
            f"{trace.tokens - decode:,} prefill and {decode:,} decode tokens; {plural(prompts, 'prompt')}.",
        ),
        ("distinct prompts", distinct, why),
        (
            "shared routing prefixes",
            f"{alike:,} of {plural(trace.requests, 'request')}, over {ALIKE} or more tokens",
            f"These begin with tokens that are routed as those of another request; the longest such beginning has "
            f"{plural(longest, 'token')}. {prefixes.repeated_tokens:,} of "
            f"{trace.tokens:,} tokens ({percent(prefixes.repeated_tokens, trace.tokens)}) repeat a beginning that is "
            "there already, the same experts at every layer, and make reuse look better than it is for new texts.",
        ),
        (
            "duplicate requests",
            f"{prefixes.duplicates:,} of {trace.requests:,}",
            "Routed from first to last as another request.",
        ),
    ]  # fmt: skip


def _oracle(verdict: Verdict) -> list[Fact]:
    best, gap = verdict.best, verdict.gap
    optimum = "optimum" if verdict.belady.optimal else f"a rule that can be followed, no bound: {verdict.no_optimum}"
    bounds = "; ".join(f"{one.misses:,} misses under {name} admission" for name, one in verdict.bounds.items())
    rows = [("oracle", f"Belady, {bounds}", f"It knows the future ({optimum}).")]
    if gap["misses"] is None:
        return [*rows, ("gap and its split", UNKNOWN, f"{gap['note']}.")]
    return [
        *rows,
        (
            "gap and its split",
            f"{gap['misses']:,} misses of {best.policy} above the optimum that may bypass: "
            f"{gap['admission']:,} forced admission, {gap['future_knowledge']:,} future knowledge",
            f"Of {best.misses:,} misses in all.",
        ),
    ]  # fmt: skip


def _provenance(trace: Trace, sizes_of: str) -> list[Fact]:
    model, origin = trace.model, trace.origin
    source = ", ".join(str(origin[key]) for key in ("format", "path") if origin.get(key))
    return [
        ("model", model.name or UNKNOWN, f"{trace.moe_layers} MoE layers, {_span(np.array(model.experts))} experts, "
         f"top-{_span(np.array(model.top_k))}"),
        ("quantisation", model.quant or UNKNOWN, ""),
        ("expert sizes", UNKNOWN if model.expert_bytes is None else _sizes(model.expert_bytes), sizes_of),
        ("recorded by", source or UNKNOWN, f"SHA-256 {origin['sha256']}" if origin.get("sha256") else ""),
        ("sampling and engine", UNKNOWN, "A trace does not record with which settings the tokens were made."),
    ]  # fmt: skip


def _bytes(result: ReplayResult) -> str:
    return UNKNOWN if result.bytes_read_per_token is None else format_bytes(result.bytes_read_per_token)


def _span(values: Any) -> str:
    if not len(values):
        return "none"
    least, most = int(min(values)), int(max(values))
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _sizes(sizes: tuple[int, ...]) -> str:
    ends = sorted({min(sizes), max(sizes)})
    return " to ".join(format_bytes(end) for end in ends)
