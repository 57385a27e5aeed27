"""Watching a model: hooks on the model say when a forward pass begins and whose tokens it has, hooks on its routers
which experts they got."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.capture.passes import Block, Chosen, Conversation, ForwardPass, LoopStep, Recorded, one_trace
from remoe_sim.capture.routers import (
    Choice,
    Router,
    find_routers,
    is_sigmoid,
    probabilities,
    read_choice,
    tables_of,
    text_config,
)

if TYPE_CHECKING:
    from remoe_sim.capture.closed_loop import ClosedLoop
    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Array

_Calls = list[list[Any]]  # for each call of a router the tables of its output
MOST_PASSES, MOST_TOKENS = 64, 2048  # whose choices are read together: it takes less time than one by one
OUTSIDE = (
    "its routers ran, but outside of a forward pass of the model that was given; give record() the module that you call"
)


@contextmanager
def record(
    model: Any,
    *,
    probs: bool = False,
    teacher_force: bool = False,
    end_ids: Collection[int] | None = None,
    routers: Mapping[int, Any] | None = None,
    ahead: int = 0,
    route: str | None = None,
    cache: int | str | None = None,
    policy: str = "lru",
    bias: float | str | None = None,
    max_rank: int | str | None = None,
    threshold: float | str | None = None,
    keep: int | str = 1,
) -> Iterator[Recorder]:
    """Record the routing of every forward pass of a Transformers model within the `with` block.

    Every row of a batch is a request. A pass without a filled cache begins requests, one with it continues them: as
    decode if it has one token per row, else as prefill. Tokens that `attention_mask` leaves out are left out.

    probs: keep the full distributions too; teacher_force: every token counts as a decode step of its own, as if it had
    been generated; end_ids: tokens that end a request when a batch generates, so that what is still computed for its
    row is left out (the end and padding tokens of the model's generation config if None); routers: the router of each
    layer by number, for models where they are not found; ahead: keep also what the routers of so many next MoE layers
    choose on the input of each router (look-ahead choices, columns `ahead1_NN` and so on).

    route: let a cache of `cache` experts per layer under `policy` run along, and the routers of decode tokens follow it
    (closed loop): "cache-prior" with bias, "max-rank" with max_rank, "cumulative" with threshold (Skliar et al., arXiv
    2412.00099), "drop" with threshold, "substitute" with threshold; `keep` as in `remoe_sim.reroute`. The trace has
    what was computed, and in `wanted_NN` what the routers alone would have chosen; a replay of it counts the hits that
    the loop counted, which are in `trace().origin["route"]`. With a cache of all experts nothing changes.
    Raises ValueError where no router is found, for settings that are not possible, and at the first pass whose tokens
    or choices cannot be told.

    Examples
    --------
    >>> with record(model, route="cache-prior", cache=8, bias=0.3) as recorder:  # doctest: +SKIP
    ...     model.generate(ids, max_new_tokens=64)
    >>> recorder.write("closed.parquet")  # doctest: +SKIP
    """
    from remoe_sim.capture.closed_loop import closed_loop

    if ahead < 0:
        raise ValueError(f"ahead {ahead} is not possible; give 0 or more MoE layers")
    found = find_routers(model, routers)
    settings = {"bias": bias, "max_rank": max_rank, "threshold": threshold}
    loop = closed_loop(found, route, cache, policy, settings, keep)
    recorder = Recorder(model, found, probs, teacher_force, end_ids, ahead, loop)
    try:
        yield recorder
    finally:
        recorder.stop()


class Recorder:
    """What `record` yields: `trace()` is what was recorded so far, `write(path)` writes that to a file."""

    def __init__(
        self,
        model: Any,
        routers: Sequence[Router],
        probs: bool,
        teacher_force: bool,
        end_ids: Collection[int] | None,
        ahead: int = 0,
        loop: ClosedLoop | None = None,
    ) -> None:
        self._model, self._routers, self._keep_probs = model, routers, probs
        self._distances = range(1, min(ahead, len(routers) - 1) + 1)
        ends = _ends_of(model) if end_ids is None else set(end_ids)
        self._recorded = Recorded(model, routers, teacher_force, frozenset(ends), loop)
        self._loop = loop
        self._pass: ForwardPass | None = None
        self._steps: list[LoopStep] = []
        self._parameters = list(inspect.signature(model.forward).parameters)
        self._opened: dict[str, Any] | None = None
        self._outputs: list[list[_Calls]] = []  # of each router: its own, then those of the next on its input
        self._waiting: list[tuple[ForwardPass, list[list[_Calls]]]] = []
        self._outside = False
        self._sigmoid: dict[int, bool] = {}
        self._caches: dict[int, tuple[weakref.ref[Any], Conversation]] = {}
        self._latest: Conversation | None = None
        self._prompts: list[int] | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end),
            *(
                router.module.register_forward_hook(self._on_router(at), with_kwargs=True)
                for at, router in enumerate(routers)
            ),
        ]

    def trace(self) -> Trace:
        """Everything recorded so far as a trace; ValueError if that is nothing."""
        self._settle()
        if not self._recorded.blocks:
            raise ValueError(OUTSIDE if self._outside else "nothing was recorded; run the model within the with block")
        return one_trace(self._recorded)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write everything recorded so far to a trace file."""
        from remoe_sim.trace.writer import write_trace

        write_trace(self.trace(), path)

    def next_prompts(self, lengths: Sequence[int]) -> None:
        """Of each row of the next pass so many tokens are a prompt; only where teacher_force makes them all decode."""
        self._prompts = list(lengths)

    def stop(self) -> None:
        """Take the hooks off."""
        while self._hooks:
            self._hooks.pop().remove()

    def _on_router(self, at: int) -> Any:
        def keep(module: Any, inputs: Any, named: dict[str, Any], output: Any) -> Any:
            if self._opened is None:
                self._outside = True
                return None
            own, *later = self._outputs[at]
            for distance, calls in zip(self._distances, later, strict=False):
                if at + distance < len(self._routers):
                    calls.append(tables_of(_said_by(self._routers[at + distance].module, inputs, named)))
            if self._loop is None:
                own.append(tables_of(output))
                return None
            output, choices = self._loop.route(at, output, self._steps)
            own.append(tables_of(output))
            later[-1].append(choices)
            return output

        return keep

    def _begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        given["length"] = _length(_cache(given))
        self._pass = self._begun(given)
        if self._loop is not None:
            self._steps = self._recorded.steps(self._pass)
        kinds = 1 + len(self._distances) + (self._loop is not None)
        self._opened, self._outputs = given, [[[] for _ in range(kinds)] for _ in self._routers]

    def _begun(self, given: dict[str, Any]) -> ForwardPass:
        """The pass that these arguments begin."""
        import torch

        ids, mask = given.get("input_ids"), given.get("attention_mask")
        whole = given.get("inputs_embeds") if ids is None else ids
        if whole is None:
            raise ValueError("a pass without input_ids or inputs_embeds cannot be recorded; give the model one of them")
        rows, columns = int(whole.shape[0]), int(whole.shape[1])
        conversation = self._conversation(given, mask, rows)
        prompts, self._prompts = self._prompts, None
        one = ForwardPass(
            conversation,
            conversation.columns == 0,
            rows,
            columns,
            None if ids is None else ids.detach().to("cpu", torch.int32, copy=True).numpy(),
            np.ones((rows, columns), np.bool_) if mask is None else mask[:, -columns:].detach().cpu().numpy() != 0,
            prompts,
        )
        self._recorded.leave_out_ended(one)
        return one

    def _end(self, model: Any, args: Any, output: Any) -> None:
        given, self._opened = self._opened, None
        one, self._pass = self._pass, None
        if given is None or one is None:
            return
        for cache in (_cache(given), _cache_of(output)):
            self._remember(cache, one.conversation)
        one.conversation.columns += one.columns
        if self._recorded.teacher_force:
            self._recorded.losses += _losses(one, getattr(output, "logits", None))
        self._waiting.append((one, self._outputs))
        tokens = sum(waiting.rows * waiting.columns for waiting, _ in self._waiting)
        if len(self._waiting) >= MOST_PASSES or tokens >= MOST_TOKENS:
            self._settle()

    def _settle(self) -> None:
        """Read the choices of the passes that wait, all of a layer at once."""
        import torch

        waiting, self._waiting = self._waiting, []
        if waiting:
            with torch.no_grad():
                layers = [self._chosen(at, waiting) for at in range(len(self._routers))]
            self._recorded.blocks.append(Block([one for one, _ in waiting], layers))

    def _chosen(self, at: int, waiting: list[tuple[ForwardPass, list[list[_Calls]]]]) -> Chosen | None:
        import torch

        router, ran, every = self._routers[at], [], []
        for one, outputs in waiting:
            calls = outputs[at][0]
            ran.append(bool(calls))
            every += calls
            seen = sum(len(tables[0]) for tables in calls if tables)
            if calls and seen != one.rows * one.columns:
                raise ValueError(
                    f"the router '{router.name}' saw {seen} tokens in a pass of {one.rows * one.columns}; only models "
                    "that route all tokens of a pass can be captured"
                )
        if not every:
            return None
        choice = _choice(router, every)
        self._recorded.guessed |= choice.guessed
        probs = None
        if self._keep_probs:
            if choice.logits is None:
                raise ValueError(f"the router '{router.name}' does not return its logits; capture without probs")
            if at not in self._sigmoid:
                self._sigmoid[at] = is_sigmoid(choice)
                self._recorded.sigmoid |= self._sigmoid[at]
            probs = probabilities(choice.logits, self._sigmoid[at]).cpu().numpy()
        weights = None if choice.weights is None else choice.weights.float().cpu().numpy()
        experts, wanted = choice.experts, None
        if self._loop is not None:  # what the model was given has an expert in each slot, also in those left out
            choices = [tables for _, outputs in waiting for tables in outputs[at][-1]]
            experts, wanted = (torch.cat(some) for some in zip(*choices, strict=True))
        return Chosen(
            ran,
            experts.int().cpu().numpy(),
            weights,
            probs,
            [self._foreseen(at, distance, waiting) for distance in self._distances],
            None if wanted is None else wanted.int().cpu().numpy(),
        )

    def _foreseen(self, at: int, distance: int, waiting: list[tuple[ForwardPass, list[list[_Calls]]]]) -> Array | None:
        """int32[tokens, k]: what a later router chooses on the input of this one, the largest gate weight first."""
        every = [tables for _, outputs in waiting for tables in outputs[at][distance]]
        if not every:
            return None
        choice = _choice(self._routers[at + distance], every)
        experts = choice.experts
        if choice.weights is not None:
            experts = experts.gather(1, choice.weights.float().argsort(dim=1, descending=True, stable=True))
        of: Array = experts.int().cpu().numpy()
        return of

    def _conversation(self, given: dict[str, Any], mask: Any, rows: int) -> Conversation:
        """The requests that a pass begins or continues."""
        length = given["length"]
        if mask is not None and (not hasattr(mask, "dim") or mask.dim() != 2):
            raise ValueError(
                "attention_mask is not a table of rows and tokens, so padding cannot be told; pass a mask with two "
                "dimensions, and no static cache to generate()"
            )
        known = self._known(_cache(given))
        if length == 0 or known is None:
            past = np.zeros(rows, np.int64)
            if length:  # the recording began in the middle
                there = mask is not None and mask.shape[1] > length
                past += mask[:, :length].sum(1).cpu().numpy() if there else length
            started = self._recorded.begin(past)
            started.columns = length
            self._latest = started
            return started
        if known.rows != rows or known.columns != length:
            raise ValueError(
                f"a pass of {rows} rows after {length} tokens does not continue one of {known.rows} rows with "
                f"{known.columns} tokens; requests cannot be told apart where rows are dropped or the cache is cut"
            )
        return known

    def _known(self, cache: Any) -> Conversation | None:
        if cache is None:
            return None
        reference, conversation = self._caches.get(id(cache), (None, None))
        if reference is not None and reference() is cache:
            return conversation
        return self._latest if isinstance(cache, tuple) else None

    def _remember(self, cache: Any, conversation: Conversation) -> None:
        if cache is not None and not isinstance(cache, tuple):
            key = id(cache)
            if self._caches.get(key, (None, None))[1] is not conversation:
                self._caches[key] = weakref.ref(cache), conversation


def _losses(one: ForwardPass, logits: Any) -> list[tuple[float, int] | None]:
    """What a model loses on the text of each row: nats, and of how many predicted tokens; None where that is not known,
    because the pass does not hold the whole text or the model does not return logits [rows, columns, words]."""
    import torch

    shape = getattr(logits, "shape", ())
    if one.tokens is None or not one.first or len(shape) != 3 or tuple(shape[:2]) != (one.rows, one.columns):
        return [None] * one.rows
    losses: list[tuple[float, int] | None] = []
    with torch.no_grad():
        for row, real in enumerate(one.real):
            columns = torch.from_numpy(np.flatnonzero(real)).to(logits.device)
            words = torch.from_numpy(one.tokens[row]).to(logits.device).long()[columns]
            nats = torch.nn.functional.cross_entropy(logits[row, columns[:-1]].float(), words[1:], reduction="sum")
            losses.append((float(nats), len(words) - 1) if len(words) > 1 else (0.0, 0))
    return losses


def _choice(router: Router, calls: _Calls) -> Choice:
    """What a router chose in several calls."""
    import torch

    return read_choice(router, [torch.cat(tables) for tables in zip(*calls, strict=True)])


def _said_by(router: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """What a router makes of the input of another; its hooks do not hear of it."""
    import torch

    weight = next(router.parameters(), None)

    def there(value: Any) -> Any:
        return value.to(weight.device) if weight is not None and hasattr(value, "detach") else value

    with torch.no_grad():
        return router.forward(*map(there, inputs), **{name: there(value) for name, value in named.items()})


def _cache(given: Mapping[str, Any]) -> Any:
    """What a pass is given of earlier ones; Transformers calls it `cache` from 5.24 on."""
    cache = given.get("cache")
    return given.get("past_key_values") if cache is None else cache


def _cache_of(output: Any) -> Any:
    """What a pass hands on; looked up in its fields, for the old name asked of the output itself warns."""
    return _cache(getattr(output, "__dict__", output if isinstance(output, Mapping) else {}))


def _length(cache: Any) -> int:
    """How many tokens a cache holds before the pass."""
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0][0].shape[-2]) if isinstance(cache, tuple) and cache else 0


def _ends_of(model: Any) -> set[int]:
    """The tokens after which generation goes on for other rows only."""
    ends: set[int] = set()
    for config in (getattr(model, "generation_config", None), text_config(model)):
        for name in ("eos_token_id", "pad_token_id"):
            value = getattr(config, name, None)
            ends.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return ends
