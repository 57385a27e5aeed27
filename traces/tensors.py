"""Arrays that people save: router logits or probabilities, [tokens, E] of each layer, of which the k largest are taken.

    router_logits.npz             router_logits [layers, tokens, E], or an array for each layer, router_logits_0, ...
    router_logits.pt              output_router_logits of Hugging Face: a tuple of [tokens, E], or one for each step
    model.safetensors             layers.3.router_logits, ...
    logits/ffn_moe_logits-3.npy   a file for each layer, in a folder

--top-k N says how many are taken; an array top_k or num_experts_per_tok may say it, too. What is in a row, as softmax,
is kept as the probabilities of the router, and those of the chosen as gate weights. Whole numbers in such files are
expert ids instead, [tokens, layers, k] (--axes) or [tokens, k] of each layer, or columns of rows (layer, experts, ...).
A batch is flattened, and its padding is among the tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.axes import AXES, MOST_KNOWN_LAYERS, tokens_first
from remoe_sim.formats.columns import SYNONYMS, find_columns, plain
from remoe_sim.formats.facts import facts_of
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import npy_values
from remoe_sim.formats.logits import are_probabilities, largest, softmax
from remoe_sim.formats.npz_files import NpzArrays
from remoe_sim.formats.source import Given, Source, as_source
from remoe_sim.formats.tables import trace_of_table
from remoe_sim.formats.torch_files import read_torch, torch_pickle
from remoe_sim.trace import Trace
from remoe_sim.util.arrays import Array
from remoe_sim.util.errors import TraceError

_NPY = b"\x93NUMPY"
_LOGITS = re.compile(r"logits|(?:router|gate|gating|routing)_(?:probs?|probabilities|softmax|scores)")
_NUMBER = re.compile(r"(\d{1,5})(?!.*\d)")
_FILES = (".npy", ".npz", ".pt", ".pth", ".safetensors")
_DTYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U8": "u1", "U16": "u2", "U32": "u4",
}  # fmt: skip
_FLOATS = (b"FloatStorage", b"HalfStorage", b"BFloat16Storage", b"DoubleStorage")
_AT_ONCE = 2**22  # numbers


class Tensors(TraceFormat):
    name = "tensors"
    summary = "router logits or probabilities, or expert ids, in npy, npz, pt and safetensors; a file for each layer"
    layout = __doc__ or ""
    shape = "zip"
    words = ("router_logits", "logits")
    directories = True
    general = True
    writer = "you: Hugging Face `output_router_logits`, logits of each layer, saved tensors"
    kept = "all router probabilities, gate weights of the chosen"
    lost = "requests (one), phases (`--phase`); k (`--top-k`); biases of the selection"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        if source.is_dir:
            names = [name for name in source.members if name.endswith(_FILES)]
            return bool(names) and all(_NUMBER.search(PurePosixPath(name).stem) for name in names)
        if source.head.startswith(_NPY):
            return b"'descr': '<f" in source.head[:128]
        if _is_safetensors(source):
            return True
        if any(name.endswith(".npy") for name in source.members):
            names = [name.removesuffix(".npy") for name in source.members]
            known = {"experts", "routed_experts"} & set(names)
            return not known and (bool(find_columns(names).experts) or any(_LOGITS.search(plain(n)) for n in names))
        pickled = torch_pickle(source)
        return any(name in pickled for name in _FLOATS) or b"LongStorage" in pickled

    def read(self, source: Source) -> Trace:
        named, prompt = _contents(source)
        numbers = {name: int(value) for name, value in named.items() if value.ndim == 0 and value.dtype.kind in "iu"}
        arrays = {name: value for name, value in named.items() if value.ndim > 0 and value.size}
        if find_columns(arrays, source.given.columns).is_rows:
            return trace_of_table(source, _table(source, arrays))
        facts = facts_of(numbers)
        logits = {name: value for name, value in arrays.items() if value.dtype.kind == "f" and value.ndim in (2, 3)}
        if len(logits) > 1 and any(_LOGITS.search(plain(name)) for name in logits):
            logits = {name: value for name, value in logits.items() if _LOGITS.search(plain(name))}
        ids = _ids_in(arrays)
        if ids:
            layers, tables = _layers(source, ids, whole=True)
            experts, probs, weights = np.stack(tables, axis=1), None, None
        elif logits:
            layers, tables = _layers(source, logits, whole=False)
            k = source.given.top_k or facts.top_k
            if k is None:
                raise source.error("logits do not say how many experts each token has; pass --top-k N")
            experts, weights, probs = _chosen(source, tables, k)
            for count in (facts.experts, source.given.experts):
                if count is not None and count != tables[0].shape[1]:
                    text = f"its rows have {tables[0].shape[1]} numbers, one for each expert, not {count}"
                    raise source.error(f"{text}; correct the number of experts")
        else:
            shapes = ", ".join(f"{name or 'array'} {value.dtype} {value.shape}" for name, value in named.items())
            raise source.error(f"neither logits nor expert ids are in it (there are {shapes[:300]}); name them so")
        source.note("the tokens of a batch follow one another as they are flattened, padding included")
        request = RequestArrays(experts, prompt, weights=weights, probs=probs, empty=True)
        stated = facts.experts if probs is None else probs[0].shape[1]
        return facts.checked(source, trace_of_requests(source, [request], numbers=layers, experts=stated))


def _contents(source: Source) -> tuple[dict[str, Array], int | None]:
    """All arrays by name, and the length of the prompt, where the tensors are in steps of which the first has one."""
    if source.is_dir:
        found: dict[str, Array] = {}
        for name in source.members:
            if name.endswith(_FILES):
                inner, _ = _contents(as_source(source.folder / name, Given()))
                stem = str(PurePosixPath(name).with_suffix(""))
                found |= {f"{part}.{stem}" if len(inner) > 1 else stem: array for part, array in inner.items()}
        return found, None
    if source.head.startswith(_NPY):
        with source.open() as stream:
            raw = stream.read()
        try:
            return {"": npy_values(raw)}, None
        except Exception as error:  # a broken header fails in many ways
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise source.error(f"cannot be read as a NumPy array ({why}); save it again") from None
    if _is_safetensors(source):
        return _safetensors(source), None
    if any(name.endswith(".npy") for name in source.members):
        arrays = NpzArrays(source)
        return {name: arrays.any(name) for name in arrays.names}, None
    return _flat(source, read_torch(source))


def _flat(source: Source, value: Any) -> tuple[dict[str, Array], int | None]:
    """The tensors in containers, by the keys and places that lead to them; steps are put below one another."""
    if isinstance(value, dict) and len(value) == 1:
        return _flat(source, next(iter(value.values())))
    if isinstance(value, dict):
        inner = next((value[name] for name in value if _LOGITS.search(plain(str(name)))), None)
        if isinstance(inner, list | tuple):
            found, prompt = _flat(source, inner)
            return found | {str(name): np.asarray(one) for name, one in value.items() if type(one) is int}, prompt
        parts = value.items()
    elif isinstance(value, list | tuple):
        if value and all(isinstance(one, list | tuple) for one in value):
            return _steps(source, value)
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        parts = [("", value)]  # type: ignore[assignment]
    found = {}
    for name, one in parts:
        if type(one) is int or (isinstance(one, np.ndarray) and one.dtype.kind in "fiu" and one.size):
            found[str(name)] = np.asarray(one)
    return found, None


def _steps(source: Source, steps: Any) -> tuple[dict[str, Array], int | None]:
    """The tensors of each step of `generate`, a tuple of layers each, as one for each layer."""
    layers = len(steps[0])
    fits = all(len(one) == layers for one in steps)
    fits &= all(isinstance(part, np.ndarray) and part.ndim >= 2 and part.size > 0 for one in steps for part in one)
    if not fits or not layers:
        raise source.error("its steps are not tuples of one tensor for each layer; save what generate returns")
    found = {}
    for layer in range(layers):
        parts = [step[layer].reshape(-1, step[layer].shape[-1]) for step in steps]
        if len({part.shape[1] for part in parts}) > 1:
            raise source.error(f"layer {layer}: steps of different numbers of experts; save it again")
        found[str(layer)] = np.concatenate(parts)
    first = int(steps[0][0].size // steps[0][0].shape[-1])
    source.note("each tuple is a forward pass of generate; the first is the prompt")
    return found, first


def _is_safetensors(source: Source) -> bool:
    head = source.head
    return len(head) > 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27 and b'"dtype"' in head


def _safetensors(source: Source) -> dict[str, Array]:
    with source.open() as stream:
        raw = stream.read()
    length = int.from_bytes(raw[:8], "little")
    try:
        header, data = json.loads(raw[8 : 8 + length]), memoryview(raw)[8 + length :]
        found = {}
        for name, one in header.items():
            if name != "__metadata__" and one["dtype"] in _DTYPES:
                begin, end = one["data_offsets"]
                kind = _DTYPES[one["dtype"]]
                flat = np.frombuffer(data[begin:end], "<u2" if kind == "bf16" else f"<{kind}")
                if kind == "bf16":
                    flat = (flat.astype(np.uint32) << 16).view(np.float32)
                found[name] = flat.reshape(one["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise source.error(f"cannot be read as safetensors ({why}); copy or save it again") from None
    return found


def _table(source: Source, arrays: Mapping[str, Array]) -> Any:
    """Columns of rows as a table."""
    import pyarrow as pa

    try:
        return pa.table({name: list(one) if one.ndim > 1 else pa.array(one) for name, one in arrays.items()})
    except (pa.ArrowException, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise source.error(f"its arrays are not columns of one table ({why}); save columns of one length") from None


def _ids_in(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of expert ids: those that are called so, else all whole numbers of two or three axes."""
    whole = {name: one for name, one in arrays.items() if one.dtype.kind in "iu" and one.ndim in (2, 3)}
    called = {
        name: one for name, one in whole.items()
        if plain(_NUMBER.sub("", name)) in SYNONYMS["experts"] or "expert" in name or "topk" in plain(name)
    }  # fmt: skip
    return called or whole


def _layers(source: Source, arrays: dict[str, Array], whole: bool) -> tuple[list[int] | None, list[Array]]:
    """The numbers of the layers, None if they are implied, and an array [tokens, k or E] of each."""

    def fault(text: str) -> TraceError:
        return source.error(text)

    wide = [one for one in arrays.values() if one.ndim == 3]
    if len(arrays) == 1 and wide:
        array = tokens_first(source, wide[0], fault) if whole else _logits_by_layer(source, wide[0], fault)
        return None, [array[:, layer] for layer in range(array.shape[1])]
    if wide and not all(one.ndim == 3 and one.shape[0] == 1 for one in arrays.values()):
        raise source.error("several arrays of three axes are in it; keep the one of logits or of expert ids")
    found: dict[int, Array] = {}
    for name, one in arrays.items():
        match = _NUMBER.search(name)
        number = int(match[1]) if match else 0
        if number in found or (match is None and len(arrays) > 1):
            raise source.error(f"'{name}' does not say which layer it is of; number the names by layer")
        found[number] = one.reshape(-1, one.shape[-1])
    numbers = sorted(found)
    tables = [found[number] for number in numbers]
    for number, table in zip(numbers, tables, strict=True):
        if table.shape != tables[0].shape or not table.size:
            text = f"layer {number} has shape {table.shape}, but layer {numbers[0]} has {tables[0].shape}"
            raise source.error(f"{text}; record it again")
    implied = all(name.isdecimal() or not name for name in arrays)
    return None if implied else numbers, tables


def _logits_by_layer(source: Source, array: Array, fault: Any) -> Array:
    """Logits as [tokens, layers, E]: layers come first, unless that is not possible, or --axes says it."""
    axes = source.given.axes
    if axes is not None:
        return np.transpose(array, [axes.index(name) for name in AXES])
    first, second = array.shape[:2]
    known = source.given.moe_layers
    if known is not None and (first == known) != (second == known):
        return array if second == known else array.transpose(1, 0, 2)
    if first > MOST_KNOWN_LAYERS >= second:
        source.note("the axes are taken as [tokens, layers, E], because no model has as many layers")
        return array
    if first > second or first > MOST_KNOWN_LAYERS:
        shape = f"its shape {array.shape} may be [layers, tokens, E] or [tokens, layers, E]"
        raise fault(f"{shape}; say which with --axes layers,tokens,k or --axes tokens,layers,k")
    source.note("the axes are taken as [layers, tokens, E]")
    return array.transpose(1, 0, 2)


def _chosen(source: Source, tables: list[Array], k: int) -> tuple[Array, Array, list[Array]]:
    """Experts and weights [tokens, layers, k], and probabilities float16[tokens, E] of each layer."""
    experts, weights, probs = [], [], []
    count = tables[0].shape[1]
    if k > count or count > 2**16:
        raise source.error(f"rows of {count} numbers are not the logits of a router with {k} experts for each token")
    sums = False
    for number, table in enumerate(tables):
        rows = max(_AT_ONCE // count, 1)
        parts = [_largest(source, number, table[at : at + rows], k) for at in range(0, len(table), rows)]
        experts.append(np.concatenate([part[0] for part in parts]))
        weights.append(np.concatenate([part[1] for part in parts]))
        probs.append(np.concatenate([part[2] for part in parts]))
        sums |= parts[0][3]
    source.note("they are probabilities" if sums else "gate weights are the softmax of logits, the largest of them")
    return np.stack(experts, axis=1), np.stack(weights, axis=1), probs


def _largest(source: Source, number: int, table: Array, k: int) -> tuple[Array, Array, Array, bool]:
    """The k largest of each row, their probabilities, all probabilities, and whether the rows are these already."""
    logits = table.astype(np.float64)
    if not np.isfinite(logits).all():
        raise source.error(f"layer {number} of its logits holds numbers that are not finite; record it again")
    order, given = largest(logits, k), are_probabilities(logits)
    probs = logits if given else softmax(logits)
    return order, np.take_along_axis(probs, order, axis=1), probs.astype(np.float16), given
