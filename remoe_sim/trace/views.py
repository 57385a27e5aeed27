"""What `Trace.select` keeps, `Trace.to_frame`, and look-ahead choices of a source of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from remoe_sim.util.arrays import Array, Ints, Longs

if TYPE_CHECKING:
    import pandas as pd

_WORDS = ("prefill", "decode")
_SHOWN = 12  # numbers that a sentence lists


def foreseen(distance: int) -> str:
    """What a column of look-ahead choices is called; at distance 0 it has what the router of the layer wanted."""
    return f"ahead{distance}" if distance else "wanted"


def most_ahead(source: Any) -> int:
    """How many MoE layers ahead a source has look-ahead choices at most."""
    most: int = getattr(source, "most_ahead", 0)
    return most


def ahead_of(source: Any, index: int, distance: int) -> Any:
    """The look-ahead choices of a source; None where it has none."""
    read = getattr(source, "ahead", None)
    return None if read is None or distance > most_ahead(source) else read(index, distance)


class RowsOfTrace(Protocol):
    """What is asked of a trace here."""

    @property
    def request(self) -> Ints: ...

    @property
    def phase(self) -> Ints: ...

    @property
    def layer_numbers(self) -> tuple[int, ...]: ...


def chosen_rows(trace: RowsOfTrace, requests: Any, tokens: Any, phase: str | None) -> Longs:
    """int64: the rows that all conditions hold for; ValueError for what is not there, and where none is left."""
    count = len(trace.request)
    kept = np.ones(count, np.bool_)
    if requests is not None:
        there = np.unique(trace.request)
        numbers = _several("requests", requests)
        _check_there("request", numbers, there.tolist())
        kept &= np.isin(trace.request, numbers)
    if phase is not None:
        if phase not in _WORDS:
            raise ValueError(f"phase {phase!r} is not possible; give {' or '.join(_WORDS)}")
        kept &= trace.phase == _WORDS.index(phase)
    if tokens is not None:
        kept &= _flags(tokens, count)
    rows: Longs = np.flatnonzero(kept)
    if not rows.size:
        raise ValueError(f"no token of {count} is left; select more of requests, tokens and phase")
    return rows


def chosen_layers(trace: RowsOfTrace, layers: int | Sequence[int] | None) -> list[int]:
    """The places of layers among the MoE layers, in the order of the model."""
    if layers is None:
        return list(range(len(trace.layer_numbers)))
    numbers = _several("layers", layers)
    _check_there("MoE layer", numbers, list(trace.layer_numbers))
    if not numbers:
        raise ValueError("layers names none; give one or several numbers of MoE layers")
    return [index for index, number in enumerate(trace.layer_numbers) if number in set(numbers)]


def _several(name: str, given: Any) -> list[int]:
    if isinstance(given, str):
        raise ValueError(f"{name} '{given}' is text; give a number or a list of numbers")
    array = np.atleast_1d(np.asarray(list(given) if isinstance(given, range | set) else given))
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(f"{name} are {array.dtype} of shape {array.shape}; give a number or a list of numbers")
    return [int(one) for one in array]


def _check_there(what: str, numbers: list[int], there: list[int]) -> None:
    missing = [number for number in numbers if number not in set(there)]
    if missing:
        shown = ", ".join(map(str, there[:_SHOWN])) + (", ..." if len(there) > _SHOWN else "")
        raise ValueError(f"there is no {what} {missing[0]}; there are {shown}")


def _flags(tokens: Any, count: int) -> Array:
    """bool[count]: which rows a slice, truth values or rising numbers name."""
    flags = np.zeros(count, np.bool_)
    if isinstance(tokens, slice):
        flags[tokens] = True
        return flags
    values = np.atleast_1d(np.asarray(tokens))
    if values.dtype == np.bool_ and values.shape == (count,):
        return values
    if values.ndim != 1 or (values.dtype.kind not in "iu" and values.size):
        raise ValueError(
            f"tokens are {values.dtype} of shape {values.shape}; give a slice, rising row numbers, or a truth value "
            f"for each of the {count} tokens"
        )
    if values.size and (values.min() < 0 or values.max() >= count or (np.diff(values.astype(np.int64)) <= 0).any()):
        raise ValueError(
            f"tokens must be row numbers from 0 to {count - 1}, each above the one before it, for a trace is in "
            "the order of execution"
        )
    flags[values.astype(np.int64)] = True
    return flags


@dataclass
class Selected:
    """Some layers of another trace (by their index) and some of its rows, all for None."""

    trace: Any
    at: Sequence[int]
    rows: Longs | None
    resident: bool

    @property
    def most_ahead(self) -> int:
        return int(self.trace.most_ahead)

    def decisions(self, index: int) -> Any:
        return self._taken(self.trace.decisions(self.at[index]))

    def ahead(self, index: int, distance: int) -> Any:
        """Of the same two layers, however many between them are left out."""
        before = self.at[index]
        found = self.trace.ahead(before, self.at[index + distance] - before)
        return None if found is None else self._taken(found)

    def _taken(self, decisions: Any) -> Any:
        return decisions if self.rows is None else decisions.take(self.rows)

    def weights(self, index: int) -> Array | None:
        values: Array | None = self.trace.source.weights(self.at[index])
        return values if values is None or self.rows is None else values[self.rows]

    def probs(self, index: int) -> Array | None:
        values: Array | None = self.trace.source.probs(self.at[index])
        return values if values is None or self.rows is None else values[self.rows]


def frame_of(trace: Any) -> pd.DataFrame:
    """One row per chosen expert, as `Trace.to_frame` says."""
    import pandas as pd

    parts: list[dict[str, Any]] = []
    for index, (number, decisions) in enumerate(trace.layers()):
        there = np.ones(decisions.experts.shape, np.bool_) if decisions.valid is None else decisions.valid
        there = there if decisions.routed is None else there & decisions.routed[:, None]
        row, slot = np.nonzero(there)
        part = {"row": row, "layer": np.full(row.size, number, np.int32), "slot": slot.astype(np.int32)}
        weights = trace.source.weights(index)
        part["expert"] = decisions.experts[there].astype(np.int32)
        part["weight"] = np.full(row.size, np.nan, np.float32) if weights is None else weights[there]
        if trace.wanted(index) is not None:
            part["wanted"] = _named_ahead(trace.wanted(index), row, slot)
        for distance in range(1, trace.most_ahead + 1):
            part[f"ahead{distance}"] = _named_ahead(trace.ahead(index, distance), row, slot)
        parts.append(part)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["slot"], columns["layer"], columns["row"]))
    columns = {name: values[order] for name, values in columns.items()}
    row, weight = columns.pop("row"), columns.pop("weight")
    for name in [name for name in columns if name.startswith(("ahead", "wanted"))]:
        columns[name] = pd.array(columns[name], "Int32")
        columns[name][columns[name] < 0] = pd.NA
    of_tokens = {name: getattr(trace, name)[row] for name in ("request", "position", "step")}
    of_tokens["phase"] = pd.Categorical.from_codes(trace.phase[row], categories=list(_WORDS))
    if trace.token_id is not None:
        of_tokens["token_id"] = trace.token_id[row]
    return pd.DataFrame(of_tokens | columns | ({} if np.isnan(weight).all() else {"weight": weight}))


def _named_ahead(named: Any, row: Longs, slot: Longs) -> Array:
    """int32: the expert that a look-ahead has in each slot, -1 where there is none."""
    if named is None:
        return np.full(row.size, -1, np.int32)
    there = np.ones(named.experts.shape, np.bool_) if named.valid is None else named.valid
    values = np.where(there, named.experts.astype(np.int32), -1)
    if named.routed is not None:
        values[~named.routed] = -1
    inside = slot < values.shape[1]
    return np.where(inside, values[row, np.minimum(slot, values.shape[1] - 1)], -1)


def html_of(trace: Any) -> str:
    """A trace as a notebook shows it."""
    from html import escape

    model = trace.model
    experts, top_k = (" to ".join(map(str, sorted({min(of), max(of)}))) for of in (model.experts, model.top_k))
    decode = int(np.count_nonzero(trace.phase == _WORDS.index("decode")))
    facts = {
        "model": model.name or "not known",
        "tokens": f"{trace.tokens:,} ({trace.tokens - decode:,} prefill, {decode:,} decode)",
        "requests": f"{trace.requests:,}",
        "MoE layers": f"{trace.moe_layers}, each with {experts} experts, top-{top_k}",
        "expert sizes": "not known" if model.expert_bytes is None else "known",
        "file": trace.path or "none, in memory",
    }
    rows = (f"<tr><th>{name}</th><td>{escape(fact)}</td></tr>" for name, fact in facts.items())
    return f"<table>{''.join(rows)}</table>"
