"""From recorded forward passes to a trace: which row of a batch is which request, and which tokens there really are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remoe_sim.capture.routers import UNWEIGHTED, Router, checked_weights
from remoe_sim.capture.weighing import weigh
from remoe_sim.formats.assemble import to_decisions
from remoe_sim.trace.schedule import steps_of
from remoe_sim.trace.trace import DECODE, PREFILL, Decisions, InMemory, Trace
from remoe_sim.util.arrays import Array, Flags, Int32s, Longs

FORCED = (
    "captured from texts that were given (teacher forcing); each token is a decode step of its own, a known prompt is "
    "one prefill step, and requests follow one another"
)


class Conversation:
    """The requests of a batch over several passes: the first one's number, how many there are, how many tokens each
    had before it was recorded, how many columns (padding too) the cache holds by now, and which requests have ended."""

    def __init__(self, first_request: int, past: Longs) -> None:
        self.first_request, self.past, self.rows, self.columns = first_request, past, len(past), 0
        self.finished = np.zeros(len(past), np.bool_)


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of rows x columns tokens. first: it begins its requests; tokens: int32[rows, columns] or None;
    real: bool[rows, columns], those that are neither padding nor of a request that has ended; prompts: of each row so
    many tokens are a prompt, where teacher forcing has one."""

    conversation: Conversation
    first: bool
    rows: int
    columns: int
    tokens: Int32s | None
    real: Flags
    prompts: Sequence[int] | None = None

    @property
    def decode(self) -> bool:
        """Whether each row goes on by one token."""
        return self.columns == 1 and not self.first


@dataclass(frozen=True)
class LoopStep:
    """The rows of one step in the output of a router, int64, and whether they may be re-routed."""

    rows: Longs
    decode: bool


@dataclass(frozen=True)
class Chosen:
    """What the router of one layer chose in the passes of a block in which it ran: experts [tokens, k], -1 where a slot
    was left out, weights [tokens, k] and probs [tokens, E] or None; ahead: for each distance the experts that the
    router so many MoE layers on chooses on its input, [tokens, k], None beyond the last layer; wanted [tokens, k]: what
    the router alone had chosen, where a cache was in the loop."""

    ran: Sequence[bool]
    experts: Array
    weights: Array | None
    probs: Array | None
    ahead: Sequence[Array | None] = ()
    wanted: Array | None = None


@dataclass(frozen=True)
class Block:
    """Consecutive passes, and what was chosen at each MoE layer: None where no router ran."""

    passes: Sequence[ForwardPass]
    layers: Sequence[Chosen | None]


@dataclass
class Recorded:
    """All passes of a model. ends: tokens that end a request in a batch that generates; guessed: a router did not say
    which experts it chose; sigmoid: a router's scores are not a softmax; unweighted: what a router gave cannot be gate
    weights; loop: the `ClosedLoop`, or None; left_out: tokens that were computed for requests that had ended; losses:
    of each text that was given, nats and predicted tokens, None where they are not known."""

    model: Any
    routers: Sequence[Router]
    teacher_force: bool
    ends: frozenset[int]
    loop: Any = None
    blocks: list[Block] = field(default_factory=list)
    requests: int = 0
    guessed: bool = False
    sigmoid: bool = False
    unweighted: bool = False
    left_out: int = 0
    losses: list[tuple[float, int] | None] = field(default_factory=list)

    @property
    def passes(self) -> list[ForwardPass]:
        """All passes, in the order in which they ran."""
        return [one for block in self.blocks for one in block.passes]

    def leave_out_ended(self, one: ForwardPass) -> None:
        """Take tokens out of a pass whose request has ended: a batch computes on for them, until its last one is."""
        finished = one.conversation.finished
        if not one.decode:
            finished[:] = False
        elif one.rows > 1 and one.tokens is not None and self.ends:
            finished |= np.isin(one.tokens[:, 0], list(self.ends))
            self.left_out += int((one.real[:, 0] & finished).sum())
            one.real[finished] = False

    def steps(self, one: ForwardPass) -> list[LoopStep]:
        """The steps of a pass in the order of the trace: all of it, or under teacher forcing each row's prompt and then
        each of its other tokens."""
        at = np.arange(one.rows * one.columns).reshape(one.rows, one.columns)
        if not self.teacher_force:
            return [LoopStep(at[one.real], one.decode)]
        if not one.first:
            raise ValueError(
                "a request of several passes cannot be read with a cache in the loop; give each text in one pass"
            )
        steps = []
        for row, real in enumerate(one.real):
            tokens = at[row][real]
            prompt = 0 if one.prompts is None else one.prompts[row]
            known = int(np.clip(prompt - one.conversation.past[row], 0, tokens.size))
            steps += [LoopStep(tokens[:known], False)] if known else []
            steps += [LoopStep(tokens[place : place + 1], True) for place in range(known, tokens.size)]
        return steps

    def begin(self, past: Longs) -> Conversation:
        """Requests with numbers of their own, one for each row."""
        conversation = Conversation(self.requests, past)
        self.requests += len(past)
        return conversation


def one_trace(recorded: Recorded) -> Trace:
    """All passes as one trace, in the order they were computed; under teacher forcing request after request."""
    rows = _Rows(recorded)
    columns, order = rows.columns()
    kept = [index for index in range(len(recorded.routers)) if any(block.layers[index] for block in recorded.blocks)]
    if not kept or not order.size:
        raise ValueError("no token was recorded with the experts it got; run the model on a text within the with block")
    layers, weights, probs = zip(*(_layer(recorded, index, rows.real, order) for index in kept), strict=True)
    routers = [recorded.routers[index] for index in kept]
    facts = weigh(recorded.model, routers, tuple(layer.experts.shape[1] for layer in layers))
    return Trace(
        **columns,
        layer_numbers=tuple(router.layer for router in routers),
        model=facts.model,
        source=InMemory(
            layers,
            weights if all(one is not None for one in weights) else None,
            probs if all(one is not None for one in probs) else None,
            _all_ahead(recorded, kept, rows.real, order),
            None if recorded.loop is None else [_ahead(recorded, index, 0, rows.real, order) for index in kept],
        ),
        origin={
            "format": "capture",
            "path": facts.path,
            "sha256": None,
            **({} if recorded.loop is None else {"route": recorded.loop.to_dict()}),
            **({"loss": _loss(recorded.losses)} if recorded.losses and None not in recorded.losses else {}),
        },
        notes="; ".join([*_notes(recorded), *facts.notes]),
    )


def _loss(losses: Sequence[tuple[float, int] | None]) -> dict[str, Any]:
    """The loss on texts that were given, for the origin of a trace: nats per predicted token, and by request."""
    known = [one for one in losses if one is not None]
    nats, tokens = sum(one[0] for one in known), sum(one[1] for one in known)
    return {
        "nats_per_token": nats / tokens if tokens else None,
        "tokens": tokens,
        "requests": [[*one] for one in known],
    }


class _Rows:
    """The tokens of all passes: what there is to know of each besides its experts. real: for each pass, which."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.lengths: dict[int, Longs] = {}
        self.real: list[Flags] = []
        self.parts = [self._part(number, one) for number, one in enumerate(recorded.passes)]

    def _part(self, number: int, one: ForwardPass) -> tuple[Array, Array, Array, Array, Array | None]:
        conversation = one.conversation
        lengths = self.lengths.setdefault(conversation.first_request, conversation.past.copy())
        real = one.real
        self.real.append(real.reshape(-1))
        position = lengths[:, None] + np.cumsum(real, axis=1) - 1
        phase = np.full(real.shape, DECODE if one.decode else PREFILL, np.uint8)
        if self.recorded.teacher_force:
            prompts = np.zeros(one.rows, np.int64) if one.prompts is None else np.asarray(one.prompts)
            phase = np.where(position < prompts[:, None], PREFILL, DECODE).astype(np.uint8)
        lengths += real.sum(axis=1)
        request = np.broadcast_to((conversation.first_request + np.arange(one.rows))[:, None], real.shape)
        passed = np.full(int(real.sum()), number)
        return request[real], position[real], phase[real], passed, None if one.tokens is None else one.tokens[real]

    def columns(self) -> tuple[dict[str, Any], Longs]:
        """The columns of a trace that describe tokens, and the order of the recorded tokens in it."""
        request, position, phase, passed = (np.concatenate([part[i] for part in self.parts]) for i in range(4))
        ids = [part[4] for part in self.parts if part[4] is not None]
        tokens = np.concatenate(ids) if len(ids) == len(self.parts) else None
        request = np.unique(request, return_inverse=True)[1]
        order: Longs = np.arange(request.size)
        if self.recorded.teacher_force:
            order = np.lexsort((position, request))
            step = steps_of(request[order], phase[order])
        else:
            step = np.unique(passed, return_inverse=True)[1].astype(np.int32)
        return {
            "request": request[order].astype(np.int32),
            "position": position[order].astype(np.int32),
            "step": step,
            "phase": phase[order],
            "token_id": None if tokens is None else tokens[order],
        }, order


def _layer(recorded: Recorded, index: int, real: list[Flags], order: Longs) -> tuple[Any, Array | None, Array | None]:
    """Decisions of one MoE layer, the largest gate weight first, with weights and probs where there are any."""
    top_k = max(one.experts.shape[1] for block in recorded.blocks if (one := block.layers[index]))
    kinds = {"experts": top_k, "weights": top_k, "probs": recorded.routers[index].experts}
    parts: dict[str, list[Array]] = {kind: [] for kind in kinds}
    for chosen, rows, taken in _recorded_rows(recorded, index, real):
        for kind, width in kinds.items():
            values = None if chosen is None else getattr(chosen, kind)
            if values is not None or chosen is None:
                whole = np.full((rows.size, width), -1, np.int32 if kind == "experts" else np.float32)
                if values is not None:
                    whole[rows] = values[taken]
                parts[kind].append(whole)
    table = np.concatenate(parts["experts"])[order]
    routed = np.asarray((table >= 0).any(axis=1))
    weights, probs = (
        np.concatenate(parts[kind])[order] if len(parts[kind]) == len(recorded.blocks) else None
        for kind in ("weights", "probs")
    )
    if weights is not None:
        name = f"the router '{recorded.routers[index].name}'"
        usable = checked_weights(name, weights, routed)
        by_weight = np.argsort(-weights, axis=1, kind="stable")
        table = np.take_along_axis(table, by_weight, axis=1)
        weights = np.take_along_axis(weights, by_weight, axis=1).astype(np.float32)
        weights[~routed] = 0
        if not usable:
            weights, recorded.unweighted = None, True
    if probs is not None:
        probs = probs.astype(np.float16)
        probs[~routed] = 0
    return to_decisions(table, routed), weights, probs


def _recorded_rows(recorded: Recorded, index: int, real: list[Flags]) -> Iterator[tuple[Chosen | None, Flags, Flags]]:
    """For each block what a layer chose in it, which of the block's recorded tokens it routed, and which of the rows of
    its choices these are (the others are padding)."""
    begin = 0
    for block in recorded.blocks:
        kept = real[begin : begin + len(block.passes)]
        begin += len(kept)
        chosen = block.layers[index]
        ran = [chosen is not None and chosen.ran[at] for at in range(len(kept))]
        rows = np.concatenate([np.full(int(one.sum()), there) for one, there in zip(kept, ran, strict=True)])
        taken = [one for one, there in zip(kept, ran, strict=True) if there]
        yield chosen, rows, np.concatenate(taken) if taken else np.zeros(0, np.bool_)


def _all_ahead(
    recorded: Recorded, kept: Sequence[int], real: list[Flags], order: Longs
) -> list[list[Decisions | None]]:
    """The look-ahead choices of the layers that ran, by distance among these."""
    most = max(len(one.ahead) for block in recorded.blocks for one in block.layers if one is not None)
    found = []
    for distance in range(1, min(most, len(kept) - 1) + 1):
        pairs = zip(kept, kept[distance:], strict=False)
        of_distance = [_ahead(recorded, index, target - index, real, order) for index, target in pairs]
        found.append([*of_distance, *[None] * distance])
    return found


def _ahead(recorded: Recorded, index: int, distance: int, real: list[Flags], order: Longs) -> Decisions | None:
    """What the router `distance` layers on says on the input of a layer's router; at 0 what it wanted itself."""
    parts = []
    for chosen, rows, taken in _recorded_rows(recorded, index, real):
        named = None
        if chosen is not None and distance <= len(chosen.ahead):
            named = chosen.ahead[distance - 1] if distance else chosen.wanted
        parts.append((rows, None if named is None else named[taken]))
    width = max((named.shape[1] for _, named in parts if named is not None), default=0)
    if not width:
        return None
    whole = [np.full((rows.size, width), -1, np.int32) for rows, _ in parts]
    for table, (rows, named) in zip(whole, parts, strict=True):
        if named is not None:
            table[rows] = named
    joined = np.concatenate(whole)[order]
    return to_decisions(joined, joined[:, 0] >= 0)


def _notes(recorded: Recorded) -> list[str]:
    notes = ["captured while the model ran; each row of a batch is a request, and padding is left out"]
    if recorded.teacher_force:
        notes = [FORCED]
    if recorded.loop is not None:
        notes.append(recorded.loop.sentence())
    if recorded.left_out:
        notes.append(f"{recorded.left_out} tokens left out that were computed for rows whose request had ended")
    if recorded.guessed:
        notes.append("experts are those with the largest router logits, as the routers do not say which they chose")
    if recorded.unweighted:
        notes.append(UNWEIGHTED)
    if any(one is not None and one.probs is not None for block in recorded.blocks for one in block.layers):
        kind = "sigmoid scores divided by their sum" if recorded.sigmoid else "a softmax of router logits"
        notes.append(f"probs are {kind}")
    return notes
