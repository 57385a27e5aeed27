"""What `Trace.select` keeps, and `Trace.to_frame`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from remoe_sim.util.arrays import Array, Ints, Longs

if TYPE_CHECKING:
    import pandas as pd

_WORDS = ("prefill", "decode")
_SHOWN = 12  # numbers that a sentence lists


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
        parts.append(part)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["slot"], columns["layer"], columns["row"]))
    columns = {name: values[order] for name, values in columns.items()}
    row, weight = columns.pop("row"), columns.pop("weight")
    of_tokens = {name: getattr(trace, name)[row] for name in ("request", "position", "step")}
    of_tokens["phase"] = pd.Categorical.from_codes(trace.phase[row], categories=list(_WORDS))
    if trace.token_id is not None:
        of_tokens["token_id"] = trace.token_id[row]
    return pd.DataFrame(of_tokens | columns | ({} if np.isnan(weight).all() else {"weight": weight}))
