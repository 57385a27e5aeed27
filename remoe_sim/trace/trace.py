"""The trace: which experts each token chose at each MoE layer, one layer at a time.

A `Trace` holds the columns that describe tokens in memory and asks a source for the decisions of a layer, so that
memory is bounded by one layer of the trace.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from remoe_sim.trace.views import ahead_of, foreseen, most_ahead
from remoe_sim.util.display import Shown
from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2  # version 1 has no ahead and wanted choices, and is written where there are none
PHASES = ("prefill", "decode")
PREFILL, DECODE = 0, 1
MOST_EXPERTS = 1 << 16
MOST_TOP_K = 1 << 12
MOST_LAYERS = 1 << 16
MOST_BYTES = 1 << 40  # of an expert or the rest of a layer
MOST_IN_ALL = 1 << 62  # bytes of all lookups and all experts, so that no sum of bytes is more than 64 bits hold


@dataclass(frozen=True, repr=False, init=False)
class Model(Shown):
    """What the trace knows of its model. Per-layer tuples have one entry per MoE layer, in layer order.

    layers: how many layers the model has; experts and top_k: routed experts and chosen experts of each MoE layer;
    expert_bytes: bytes of one expert in each MoE layer; dense_bytes: bytes of everything else in each layer.
    None stands for "not known". One number instead of a tuple, as in `Model(experts=32)`, is that of every MoE layer;
    a trace makes a tuple of it, and takes top_k from its decisions where it is not given.
    """

    experts: tuple[int, ...]
    top_k: tuple[int, ...]
    name: str | None = None
    layers: int | None = None
    expert_bytes: tuple[int, ...] | None = None
    dense_bytes: tuple[int, ...] | None = None
    quant: str | None = None
    every: tuple[str, ...] = ()  # the names whose one number is that of every layer, until a trace says how many

    def __init__(
        self,
        experts: int | tuple[int, ...],
        top_k: int | tuple[int, ...] | None = None,
        name: str | None = None,
        layers: int | None = None,
        expert_bytes: int | tuple[int, ...] | None = None,
        dense_bytes: tuple[int, ...] | None = None,
        quant: str | None = None,
        every: tuple[str, ...] = (),
    ) -> None:
        per_layer = {"experts": experts, "top_k": top_k, "expert_bytes": expert_bytes}
        if top_k is None:
            per_layer["top_k"], every = (), (*every, "top_k")
        for what, given in per_layer.items():
            if isinstance(given, int):
                per_layer[what], every = (given,), (*every, what)
        others = {"name": name, "layers": layers, "dense_bytes": dense_bytes, "quant": quant}
        for what, value in {**per_layer, **others, "every": tuple(dict.fromkeys(every))}.items():
            object.__setattr__(self, what, value)

    def of_layers(self, count: int, top_k: Callable[[int], int]) -> Model:
        """The same with one number per MoE layer, for a trace of `count` layers; top_k(index) where it is not known."""
        if not self.every:
            return self
        spread: dict[str, Any] = {}
        for what in self.every:
            known = getattr(self, what)
            if what == "top_k" and not known:
                spread[what] = tuple(top_k(index) for index in range(count))
            elif len(known or ()) == 1:
                spread[what] = known * count
        return replace(self, **spread, every=())

    def to_frame(self) -> pd.DataFrame:
        """One row per MoE layer."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("experts", "top_k", "expert_bytes") if getattr(self, name)}
        count = max(map(len, columns.values()))
        return pd.DataFrame({name: [*values] * (count // len(values)) for name, values in columns.items()})

    def _sentence(self) -> str:
        layers = f"{len(self.experts)} MoE layers" + (f" of {self.layers}" if self.layers else "")
        return ", ".join(part for part in (self.name or "unnamed model", self.quant, layers) if part)


@dataclass(frozen=True)
class Decisions:
    """The decisions of all tokens at one layer.

    experts: uint16[tokens, k], slot 0 has the largest gate weight, 0 where there is none; valid: bool[tokens, k], false
    for null slots, or None when every slot is there; routed: bool[tokens], false for null decisions, or None.
    """

    experts: npt.NDArray[np.uint16]
    valid: npt.NDArray[np.bool_] | None = None
    routed: npt.NDArray[np.bool_] | None = None

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """`valid` as kernels take it: bool[0, 0] stands for "every slot"."""
        return np.zeros((0, 0), np.bool_) if self.valid is None else self.valid

    def take(self, rows: npt.NDArray[np.int64]) -> Decisions:
        """The decisions of some tokens, in that order."""
        return Decisions(
            self.experts[rows],
            None if self.valid is None else self.valid[rows],
            None if self.routed is None else self.routed[rows],
        )


class LayerSource(Protocol):
    """Where a trace gets a layer from: a file, or arrays in memory. `index` counts MoE layers from 0.

    resident: the same arrays every time, so that checking them once is enough. A source of look-ahead choices also has
    `most_ahead` and `ahead(index, distance)`, as `Trace` has; at distance 0 they are what the router alone wanted.
    """

    @property
    def resident(self) -> bool: ...

    def decisions(self, index: int) -> Decisions: ...

    def weights(self, index: int) -> npt.NDArray[np.float32] | None: ...

    def probs(self, index: int) -> npt.NDArray[np.float16] | None: ...


@dataclass(frozen=True)
class InMemory:
    """Layers held as arrays: decisions, and optionally weights float32[tokens, k], probs float16[tokens, E] and
    look-ahead choices."""

    layers: Sequence[Decisions]
    all_weights: Sequence[npt.NDArray[np.float32] | None] | None = None
    all_probs: Sequence[npt.NDArray[np.float16] | None] | None = None
    all_ahead: Sequence[Sequence[Decisions | None]] = ()  # of each distance from 1 on, by MoE layer
    all_wanted: Sequence[Decisions | None] | None = None  # what routers alone chose, where a cache changed it
    resident = True

    @property
    def most_ahead(self) -> int:
        return len(self.all_ahead)

    def ahead(self, index: int, distance: int) -> Decisions | None:
        if distance == 0:
            return None if self.all_wanted is None else self.all_wanted[index]
        return self.all_ahead[distance - 1][index] if distance <= len(self.all_ahead) else None

    def decisions(self, index: int) -> Decisions:
        return self.layers[index]

    def weights(self, index: int) -> npt.NDArray[np.float32] | None:
        return None if self.all_weights is None else self.all_weights[index]

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        return None if self.all_probs is None else self.all_probs[index]


@dataclass(frozen=True)
class Trace:
    """The routing of one model over one or more requests; one row per token, in execution order.

    request, position, step: int32[tokens]; phase: uint8[tokens], PREFILL or DECODE; token_id: int32[tokens] or None;
    layer_numbers: the model's own number of each MoE layer; origin: `source` of the file's metadata; path: the file
    it was read from.

    Raises TraceError when these disagree or a step decreases. Decisions are checked by `check_layer`.
    """

    request: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    step: npt.NDArray[np.int32]
    phase: npt.NDArray[np.uint8]
    layer_numbers: tuple[int, ...]
    model: Model
    source: LayerSource
    token_id: npt.NDArray[np.int32] | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    path: str = ""
    _checked: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    _hashes: list[str] = field(default_factory=list, init=False, repr=False, compare=False)  # one, once it is known

    def __post_init__(self) -> None:
        tokens = len(self.request)
        for name in ("request", "position", "step", "phase", "token_id"):
            column = getattr(self, name)
            if column is not None and column.shape != (tokens,):
                raise self.error(f"column '{name}' has {len(column)} rows where 'request' has {tokens}")
        count = len(self.layer_numbers)
        object.__setattr__(self, "model", self.model.of_layers(count, self._slots))
        if not count:
            raise self.error("there is no MoE layer; a trace needs at least one column experts_NN")
        if list(self.layer_numbers) != sorted(set(self.layer_numbers)):
            raise self.error("layer numbers must ascend without repetition")
        for name in ("experts", "top_k", "expert_bytes"):
            per_layer = getattr(self.model, name)
            if per_layer is not None and len(per_layer) != count:
                raise self.error(f"model.{name} has {len(per_layer)} entries for {count} MoE layers")
        for name, least in (("experts", 1), ("top_k", 1), ("expert_bytes", 1), ("dense_bytes", 0)):
            if any(value < least for value in getattr(self.model, name) or ()):
                raise self.error(f"model.{name} holds a value below {least}")
        for name, given, most in (
            ("experts", max(self.model.experts), MOST_EXPERTS),
            ("top_k", max(self.model.top_k), MOST_TOP_K),
            ("layers", max(self.model.layers or 0, self.layer_numbers[-1] + 1), MOST_LAYERS),
        ):
            if given > most:
                raise self.error(f"model.{name} is {given}; at most {most} are possible")
        for name in ("expert_bytes", "dense_bytes"):
            if max(getattr(self.model, name) or (0,)) > MOST_BYTES:
                raise self.error(f"model.{name} holds a value above {MOST_BYTES}")
        self._check_bytes()
        falling = np.flatnonzero(self.step[1:] < self.step[:-1])
        if falling.size:
            row = int(falling[0]) + 1
            raise self.error(
                f"row {row}, column 'step': {self.step[row]} comes after {self.step[row - 1]}, but rows are in "
                "execution order and steps never decrease; sort the rows by step"
            )

    def _check_bytes(self) -> None:
        """Raise TraceError if bytes read, held or guessed could be more than 64 bits hold."""
        model = self.model
        per_layer = zip(model.experts, model.top_k, model.expert_bytes or (), strict=bool(model.expert_bytes))
        if sum((self.tokens * k + experts) * size for experts, k, size in per_layer) > MOST_IN_ALL:
            raise self.error(
                f"with experts of up to {max(model.expert_bytes or ())} bytes, all lookups and experts are more than "
                f"{MOST_IN_ALL} bytes, which cannot be counted; give the size of one expert in bytes, such as "
                "--expert-bytes 3MiB"
            )

    def error(self, text: str) -> TraceError:
        """A TraceError that names this trace's file."""
        return TraceError(f"{self.path}: {text}" if self.path else text)

    def _slots(self, index: int) -> int:
        return int(self.source.decisions(index).experts.shape[1])

    def __len__(self) -> int:
        return self.tokens

    def __bool__(self) -> bool:
        return True  # a trace without tokens is one, too

    @property
    def tokens(self) -> int:
        """How many tokens (rows) there are."""
        return len(self.request)

    @cached_property
    def requests(self) -> int:
        """How many requests there are."""
        return int(np.unique(self.request).size)

    @property
    def moe_layers(self) -> int:
        """How many MoE layers there are."""
        return len(self.layer_numbers)

    def decisions(self, index: int) -> Decisions:
        """The checked decisions at MoE layer `index` (counted from 0)."""
        decisions = self.source.decisions(index)
        if index not in self._checked:
            self.check_layer(index, decisions)
        if self.source.resident:
            self._checked.add(index)
        return decisions

    @property
    def most_ahead(self) -> int:
        """How many MoE layers ahead the trace has look-ahead choices at most; 0 where it has none."""
        return min(most_ahead(self.source), self.moe_layers - 1)

    def ahead(self, index: int, distance: int = 1) -> Decisions | None:
        """What the router of the MoE layer `distance` further on chooses on the input of MoE layer `index`, the surest
        first and checked; None where that was not recorded."""
        target = index + distance
        found = ahead_of(self.source, index, distance) if target < self.moe_layers else None
        if found is not None:
            self.check_layer(target, found, name=self.column(index, foreseen(distance)))
        return found

    def wanted(self, index: int) -> Decisions | None:
        """What the router of MoE layer `index` alone chose, checked, where a cache in the loop may have changed that;
        None where that was not recorded."""
        return self.ahead(index, 0)

    def layers(self) -> Iterator[tuple[int, Decisions]]:
        """Pairs of the model's layer number and its decisions, one layer in memory at a time."""
        for index, number in enumerate(self.layer_numbers):
            yield number, self.decisions(index)

    def column(self, index: int, kind: str = "experts") -> str:
        """The column name of a layer, such as `experts_07`."""
        return f"{kind}_{self.layer_numbers[index]:02d}"

    def check_layer(self, index: int, decisions: Decisions, rows: slice | None = None, name: str | None = None) -> None:
        """Raise TraceError for an expert id ≥ E, a repeated expert in a decision, or wrong shapes.

        rows: the rows of the trace that the decisions are of; all without it. name: of their column, if it is not
        that of the layer.
        """
        from remoe_sim.kernels.grouping import ID_TOO_LARGE, check_decisions

        name, experts, top_k = name or self.column(index), self.model.experts[index], self.model.top_k[index]
        first, last, _ = (rows or slice(None)).indices(self.tokens)
        if decisions.experts.shape != (last - first, top_k):
            raise self.error(f"column '{name}' has shape {decisions.experts.shape}, expected {(last - first, top_k)}")
        marks = np.full(experts, -1, np.int64)
        row, slot, fault = check_decisions(decisions.experts, decisions.mask, experts, marks)
        if fault:
            expert = decisions.experts[row, slot]
            why = (
                f"expert {expert} is not below the model's {experts} experts; correct the ids or model.experts"
                if fault == ID_TOO_LARGE
                else f"expert {expert} appears twice in one decision; each expert is chosen at most once per token"
            )
            raise self.error(f"row {first + row}, column '{name}': {why}")

    def with_sizes(self, expert_bytes: int | Sequence[int]) -> Trace:
        """The same trace with `expert_bytes` for every MoE layer, or one number per MoE layer."""
        per_layer = (expert_bytes,) * self.moe_layers if isinstance(expert_bytes, int) else tuple(expert_bytes)
        return replace(self, model=replace(self.model, expert_bytes=per_layer))

    def to_frame(self) -> pd.DataFrame:
        """One row per chosen expert, with the columns request, position, step, phase, layer, slot and expert, and
        token_id and weight where they are known. Empty slots have no row."""
        from remoe_sim.trace.views import frame_of

        return frame_of(self)

    def select(
        self,
        *,
        requests: int | Sequence[int] | None = None,
        layers: int | Sequence[int] | None = None,
        tokens: slice | Sequence[int] | npt.NDArray[Any] | None = None,
        phase: str | None = None,
    ) -> Trace:
        """The part of the trace that all conditions hold for; decisions are taken when a layer is asked for.

        requests, layers: one number or several, layers by the model's own numbers; tokens: rows, as a slice, as rising
        numbers, or as a truth value for each; phase: `prefill` or `decode`. Requests, positions and steps keep their
        numbers. Raises ValueError for what is not there, and where no token is left.
        """
        from remoe_sim.trace.views import Selected, chosen_layers, chosen_rows

        rows = chosen_rows(self, requests, tokens, phase)
        at = chosen_layers(self, layers)
        model = self.model
        per_layer: dict[str, Any] = {
            name: None if getattr(model, name) is None else tuple(getattr(model, name)[index] for index in at)
            for name in ("experts", "top_k", "expert_bytes")
        }
        whole = rows.size == self.tokens
        said = f"selected: {rows.size} of {self.tokens} tokens, {len(at)} of {self.moe_layers} MoE layers"
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in ("request", "position", "step", "phase")},
            token_id=None if self.token_id is None else self.token_id[rows],
            layer_numbers=tuple(self.layer_numbers[index] for index in at),
            model=replace(model, **per_layer),
            source=Selected(self, at, None if whole else rows, self.source.resident),
            notes="; ".join(filter(None, (self.notes, said))),
        )

    def _repr_html_(self) -> str:
        from remoe_sim.trace.views import html_of

        return html_of(self)

    def __repr__(self) -> str:
        name = self.model.name or "unnamed model"
        return f"<Trace of {name}: {self.tokens} tokens, {self.requests} requests, {self.moe_layers} MoE layers>"


TraceLike = Trace | str | os.PathLike[str]  # a trace, or where to read one
