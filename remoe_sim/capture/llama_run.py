"""What `remoe-sim capture` does with a GGUF file: llama.cpp generates from prompts or reads texts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.capture.llama import PASS_TOKENS, LlamaModel, loaded
from remoe_sim.capture.llama_tensors import EXPERTS, PROBS, WEIGHTS, Column, RoutingTensors
from remoe_sim.capture.passes import FORCED
from remoe_sim.capture.routers import UNWEIGHTED, checked_weights
from remoe_sim.formats.assemble import to_decisions
from remoe_sim.models.gguf import first_part, size_gguf
from remoe_sim.trace.schedule import steps_of
from remoe_sim.trace.trace import DECODE, PREFILL, InMemory, Model, Trace

if TYPE_CHECKING:
    from remoe_sim.capture.inputs import Prompt
    from remoe_sim.models.sizes import SizedModel

NEEDED = (
    "package 'llama-cpp-python', which runs GGUF files, is not installed; install it with: "
    "pip install 'remoe-sim[llamacpp]'"
)
Request = tuple[list[int], int]  # its tokens, and how many of them are a prompt that something follows


def run_gguf(
    path: Path,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch: int,
    probs: bool,
    device: str,
    teacher_force: bool,
    progress: Callable[[int, int], None] | None,
) -> Trace:
    """Record the routing of the model in a GGUF file over prompts; the arguments are those of `running.run`."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise ValueError(NEEDED)
    sized = size_gguf(path)
    with loaded(first_part(path), device) as model:
        requests = [model.tokens(one) for one in prompts]
        tensors, seen = RoutingTensors(probs), _SeenTokens()
        together = 1 if teacher_force else min(batch, len(requests))
        added = 0 if teacher_force else max_new_tokens
        groups = [requests[start : start + together] for start in range(0, len(requests), together)]
        model.open(tensors, together, max(sum(len(ids) + added for ids, _ in group) for group in groups))
        for number, group in enumerate(groups):
            if progress is not None:
                progress(number * together, len(requests))
            model.forget()
            last = [_read(model, seen, number * together, row, one, teacher_force) for row, one in enumerate(group)]
            if not teacher_force:
                _generate(model, seen, number * together, [len(ids) for ids, _ in group], last, max_new_tokens)
    return _trace(path, sized, tensors, seen, teacher_force)


class _SeenTokens:
    """What there is to know of the computed tokens besides their experts: int32[tokens, 5] with request, position,
    token, phase and step."""

    def __init__(self) -> None:
        self.table = Column()
        self._steps = 0

    def add(self, rows: Sequence[tuple[int, int, int, int]], passes: Sequence[int]) -> None:
        """Tokens without their steps, and how many of them each forward pass had."""
        steps = np.repeat(np.arange(self._steps, self._steps + len(passes)), passes)
        self._steps += len(passes)
        self.table.add(np.column_stack((np.array(rows), steps)).astype(np.int32))


def _read(
    model: LlamaModel, seen: _SeenTokens, first: int, row: int, request: Request, teacher_force: bool
) -> int | None:
    """Compute a text; the token that it is likely followed by, None if that is an end."""
    ids, known = request
    prompt = known if teacher_force else len(ids)
    for start in range(0, len(ids), PASS_TOKENS):
        part = list(enumerate(ids[start : start + PASS_TOKENS], start))
        passes = model.decode([(row, position, token) for position, token in part])
        phases = [PREFILL if position < prompt else DECODE for position, _ in part]
        seen.add([(first + row, *one, phase) for one, phase in zip(part, phases, strict=True)], passes)
    return model.likeliest(len(part) - 1)


def _generate(
    model: LlamaModel, seen: _SeenTokens, first: int, lengths: Sequence[int], last: list[int | None], new_tokens: int
) -> None:
    """Feed back what the requests of a group are followed by, all at once, but not the last token of each."""
    for past in range(new_tokens - 1):
        live = [(row, lengths[row] + past, token) for row, token in enumerate(last) if token is not None]
        if not live:
            return
        passes = model.decode(live)
        seen.add([(first + row, position, token, DECODE) for row, position, token in live], passes)
        for at, (row, _, _) in enumerate(live):
            last[row] = model.likeliest(at)


def _trace(path: Path, sized: SizedModel, tensors: RoutingTensors, seen: _SeenTokens, teacher_force: bool) -> Trace:
    request, position, token, phase, step = np.ascontiguousarray(seen.table.whole().T)
    layers = sorted(tensors.columns[EXPERTS])
    decisions, weights, probs, usable = [], [], [], True
    for layer in layers:
        experts, gates = (tensors.columns[kind][layer].whole() for kind in (EXPERTS, WEIGHTS))
        usable &= checked_weights(f"layer {layer}", gates)
        order = np.argsort(-gates, axis=1, kind="stable")  # they were chosen by other scores in some models
        decisions.append(to_decisions(np.take_along_axis(experts, order, axis=1), np.ones(len(experts), np.bool_)))
        weights.append(np.take_along_axis(gates, order, axis=1))
        if PROBS in tensors.columns:
            probs.append(tensors.columns[PROBS][layer].whole())
    longest = int(position[phase == PREFILL].max(initial=0)) + 1
    of_layer = dict(zip(sized.moe_layers, sized.expert_bytes, strict=True))
    about = Model(
        experts=(sized.experts,) * len(layers),
        top_k=tuple(one.experts.shape[1] for one in decisions),
        name=sized.name,
        layers=sized.layers,
        expert_bytes=tuple(of_layer[layer] for layer in layers),
        dense_bytes=sized.dense_bytes,
        quant=sized.quant,
    )
    return Trace(
        request=request,
        position=position,
        step=steps_of(request, phase) if teacher_force else step,
        phase=phase.astype(np.uint8),
        token_id=token,
        layer_numbers=tuple(layers),
        model=about,
        source=InMemory(decisions, weights if usable else None, probs or None),
        origin={"format": "capture", "path": path.name, "sha256": None},
        notes="; ".join([*_notes(tensors, longest, teacher_force), *([] if usable else [UNWEIGHTED])]),
    )


def _notes(tensors: RoutingTensors, longest: int, teacher_force: bool) -> list[str]:
    notes = [FORCED if teacher_force else "captured while llama.cpp ran the model; every prompt is prefill of its own"]
    notes.append("the last layer was computed for all tokens of a prompt")
    if longest > PASS_TOKENS and not teacher_force:
        notes.append(f"prompts were computed in steps of at most {PASS_TOKENS} tokens")
    if PROBS in tensors.columns:
        kind = "scores divided by their sum" if tensors.scores else "a softmax of router logits"
        notes.append(f"probs are {kind}")
    return [*notes, "sizes are those of the file"]
