"""Watching a model: hooks on the model say when a forward pass begins and whose tokens it has, hooks on its routers
which experts they got."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from remoe_sim.capture.choices import Choice, is_sigmoid, probabilities, read_choice
from remoe_sim.capture.passes import Conversation, Pass, Recorded, one_trace
from remoe_sim.capture.routers import Router, find_routers, text_config
from remoe_sim.trace import Trace

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
) -> Iterator[Recorder]:
    """Record the routing of every forward pass of a Transformers model within the `with` block.

    Every row of a batch is a request. A pass without a filled cache begins requests, one with it continues them: as
    decode if it has one token per row, else as prefill. Tokens that `attention_mask` leaves out are left out.

    probs: keep the full distributions too; teacher_force: every token counts as a decode step of its own, as if it had
    been generated; end_ids: tokens that end a request when a batch generates, so that what is still computed for its
    row is left out (the end and padding tokens of the model's generation config if None); routers: the router of each
    layer by number, for models where they are not found.
    Raises ValueError where no router is found, and at the first pass whose tokens or choices cannot be told.
    """
    recorder = Recorder(model, find_routers(model, routers), probs, teacher_force, end_ids)
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
    ) -> None:
        self._model, self._routers, self._keep_probs = model, routers, probs
        ends = _ends_of(model) if end_ids is None else set(end_ids)
        self._recorded = Recorded(model, routers, teacher_force, frozenset(ends))
        self._parameters = list(inspect.signature(model.forward).parameters)
        self._opened: dict[str, Any] | None = None
        self._outputs: list[list[Any]] = []
        self._outside = False
        self._sigmoid: dict[int, bool] = {}
        self._caches: dict[int, tuple[weakref.ref[Any], Conversation]] = {}
        self._latest: Conversation | None = None
        self._prompts: list[int] | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end),
            *(router.module.register_forward_hook(self._on_router(at)) for at, router in enumerate(routers)),
        ]

    def trace(self) -> Trace:
        """Everything recorded so far as a trace; ValueError if that is nothing."""
        if not self._recorded.passes:
            raise ValueError(OUTSIDE if self._outside else "nothing was recorded; run the model within the with block")
        return one_trace(self._recorded)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write everything recorded so far to a trace file."""
        from remoe_sim.trace_writer import write_trace

        write_trace(self.trace(), path)

    def next_prompts(self, lengths: Sequence[int]) -> None:
        """Of each row of the next pass so many tokens are a prompt; only where teacher_force makes them all decode."""
        self._prompts = list(lengths)

    def stop(self) -> None:
        """Take the hooks off."""
        while self._hooks:
            self._hooks.pop().remove()

    def _on_router(self, at: int) -> Any:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            if self._opened is None:
                self._outside = True
            else:
                self._outputs[at].append(output)

        return keep

    def _begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._opened = dict(zip(self._parameters, args, strict=False)) | kwargs
        self._opened["length"] = _length(self._opened.get("past_key_values"))
        self._outputs = [[] for _ in self._routers]

    def _end(self, model: Any, args: Any, output: Any) -> None:
        given, self._opened = self._opened, None
        if given is None:
            return
        ids = given.get("input_ids")
        whole = given.get("inputs_embeds") if ids is None else ids
        if whole is None:
            raise ValueError("a pass without input_ids or inputs_embeds cannot be recorded; give the model one of them")
        rows, columns = int(whole.shape[0]), int(whole.shape[1])
        mask = given.get("attention_mask")
        conversation = self._conversation(given, mask, rows)
        for cache in (given.get("past_key_values"), getattr(output, "past_key_values", None)):
            self._remember(cache, conversation)
        first = conversation.columns == 0
        conversation.columns += columns
        choices = [self._choice(at, rows * columns) for at in range(len(self._routers))]
        experts, weights, probs = (
            _gather([getattr(one, kind) for one in choices]) for kind in ("experts", "weights", "probs")
        )
        prompts, self._prompts = self._prompts, None
        self._recorded.passes.append(
            Pass(
                conversation,
                first,
                rows,
                columns,
                None if ids is None else ids.detach().cpu().numpy().astype(np.int32),
                None if mask is None else mask[:, -columns:].detach().cpu().numpy() != 0,
                [one.top_k for one in choices],
                experts,
                weights,
                probs,
                prompts,
            )
        )

    def _choice(self, at: int, tokens: int) -> _Kept:
        router, outputs = self._routers[at], self._outputs[at]
        self._outputs[at] = []
        if not outputs:
            return _Kept()
        read = [read_choice(router, output) for output in outputs]
        choice = read[0] if len(read) == 1 else _join(read)
        if len(choice.experts) != tokens:
            raise ValueError(
                f"the router '{router.name}' saw {len(choice.experts)} tokens in a pass of {tokens}; only models that "
                "route all tokens of a pass can be captured"
            )
        self._recorded.guessed |= choice.guessed
        probs = None
        if self._keep_probs:
            if choice.logits is None:
                raise ValueError(f"the router '{router.name}' does not return its logits; capture without probs")
            if at not in self._sigmoid:
                self._sigmoid[at] = is_sigmoid(choice)
                self._recorded.sigmoid |= self._sigmoid[at]
            probs = probabilities(choice.logits, self._sigmoid[at])
        return _Kept(choice.experts, choice.weights, probs)

    def _conversation(self, given: dict[str, Any], mask: Any, rows: int) -> Conversation:
        """The requests that a pass begins or continues."""
        length = given["length"]
        if mask is not None and (not hasattr(mask, "dim") or mask.dim() != 2):
            raise ValueError(
                "attention_mask is not a table of rows and tokens, so padding cannot be told; pass a mask with two "
                "dimensions, and no static cache to generate()"
            )
        known = self._known(given.get("past_key_values"))
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


class _Kept:
    """What is kept of a router's choice in one pass; top_k 0 where the router did not run."""

    __slots__ = ("experts", "probs", "top_k", "weights")

    def __init__(self, experts: Any = None, weights: Any = None, probs: Any = None) -> None:
        self.experts, self.weights, self.probs = experts, weights, probs
        self.top_k = 0 if experts is None else int(experts.shape[1])


def _gather(tensors: list[Any]) -> Any:
    """All layers one after the other in one array, None if there is none: one copy from the device per pass."""
    import torch

    there = [one.reshape(-1) for one in tensors if one is not None]
    if not there:
        return None
    if len({one.device for one in there}) > 1:
        there = [one.cpu() for one in there]
    joined = torch.cat(there)
    if not joined.is_floating_point():
        return joined.to(torch.int32).cpu().numpy()
    return (joined if joined.dtype == torch.float16 else joined.float()).cpu().numpy()


def _join(parts: list[Choice]) -> Choice:
    """One choice of several calls of a router in one pass."""
    import torch

    def joined(kind: str) -> Any:
        values = [getattr(one, kind) for one in parts]
        return None if any(one is None for one in values) else torch.cat(values)

    return Choice(joined("experts"), joined("weights"), joined("logits"), any(one.guessed for one in parts))


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
