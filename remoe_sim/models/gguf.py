"""Read the sizes of a model from the header of a GGUF file."""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoe_sim.models.attention import CACHE_BYTES
from remoe_sim.models.sizes import Context, SizedModel, size
from remoe_sim.models.tensors import DENSE, EMBEDDING, EXPERT_BIAS, HEAD, ROUTED, ROUTER, SHARED, VECTOR, Tensor
from remoe_sim.util.input_files import check_regular

NEEDED = "package 'gguf', which reads GGUF files, is not installed; install it with: pip install 'remoe-sim[gguf]'"
_FORMS = "BbHhIif?__Qqd"  # of the numbers, by the code of their type; _ for text and list
_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS = 8
_MOST_KEPT = 100_000  # elements of a list; longer ones are of the tokenizer


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the table lists it: shape[0] are the columns."""

    name: str
    shape: tuple[int, ...]
    nbytes: int
    kind: str


@dataclass(frozen=True)
class Header:
    """Everything that precedes the weights: values of the metadata by name, and the table of tensors."""

    values: dict[str, Any]
    entries: list[TensorEntry]


def read_header(path: Path) -> Header:
    """The header of a file, without what is of the tokenizer; ValueError, a clause, for what is no whole GGUF file."""
    check_regular(path, "GGUF file")
    with path.open("rb") as file:
        if path.stat().st_size < 24:
            raise ValueError("too short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _HeaderReader(data).header()
            except struct.error:
                raise ValueError("cut off") from None


class _HeaderReader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at, self._order = data, 4, "<"

    def header(self) -> Header:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("I")
        if not version & 0xFFFF:
            self._order, version = ">", version >> 24
        if version not in (2, 3):
            raise ValueError(f"version {version} is not known, only 2 and 3")
        tensors, count = self._number("Q"), self._number("Q")
        values: dict[str, Any] = {}
        for _ in range(count):
            name, kind = self._text(), self._number("I")
            value = self._value(kind)
            if not name.startswith("tokenizer."):
                values[name] = value
        entries = []
        for _ in range(tensors):
            name, dimensions = self._text(), self._number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            shape = tuple(self._number("Q") for _ in range(dimensions))
            type_ = GGMLQuantizationType(self._number("I"))
            self._number("Q")  # where it lies
            block, size = GGML_QUANT_SIZES[type_]
            entries.append(TensorEntry(name, shape, math.prod(shape) * size // block, type_.name.lower()))
        return Header(values, entries)

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack_from(self._order + form, self._data, self._at)
        self._at += struct.calcsize(self._order + form)
        return value

    def _text(self) -> str:
        length = self._number("Q")
        self._check(length)
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", "replace")

    def _check(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise ValueError(f"{size} bytes are said to be where {len(self._data) - self._at} are left")

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            return self._list()
        if kind >= len(_FORMS):
            raise ValueError(f"a value of type {kind}")
        return self._number(_FORMS[kind])

    def _list(self) -> list[Any] | None:
        """The elements; None where there are so many that they are the tokenizer's."""
        kind, count = self._number("I"), self._number("Q")
        if kind == _LIST or kind >= len(_FORMS):
            raise ValueError(f"a list of type {kind}")
        size = 8 if kind == _TEXT else struct.calcsize(self._order + _FORMS[kind])
        self._check(count * size)
        if count <= _MOST_KEPT:
            return [self._value(kind) for _ in range(count)]
        if kind == _TEXT:
            for _ in range(count):
                length = self._number("Q")
                self._check(length)
                self._at += length
        else:
            self._at += count * size
        return None


_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)|blk\.(\d+)\.(.+)")
_ROUTED = re.compile(r"ffn_(gate|up|down|gate_up)_exps")
_MOST_LAYERS = 10_000


def size_gguf(path: Path, top_k: int | None = None) -> SizedModel:
    """Exact sizes of the model in a GGUF file, or in all parts of one that was split; ValueError if it is none."""
    where = f"GGUF file '{path}'"
    header = _read_all(path, where)
    values = header.values
    family = str(values.get("general.architecture", ""))

    def number(name: str, default: int | None = None) -> int:
        value = values.get(f"{family}.{name}", default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{where} has no number {family}.{name}; give the file of a Mixture-of-Experts model")
        return value

    experts = number("expert_count", 0)
    if not experts:
        raise ValueError(f"{where} holds no experts; give the file of a Mixture-of-Experts model")
    layers = number("block_count") - number("nextn_predict_layers", 0)
    if not 1 <= layers <= _MOST_LAYERS:
        raise ValueError(f"{where} says that it has {layers} layers; give a file that is whole")
    sized, left_out = [], 0
    for entry in header.entries:
        tensors = _tensors(entry, layers)
        left_out += not tensors
        held = next((one.count for one in tensors if one.part == ROUTED), experts)
        if held != experts:
            raise ValueError(
                f"{where} has {held} experts in {entry.name} and says that it has {experts}; fetch it again"
            )
        sized += [(tensor, entry.nbytes // len(tensors)) for tensor in tensors]
    moe_layers = tuple(sorted({one.layer for one, _ in sized if one.part == ROUTED and one.layer is not None}))
    embedding = next((tensor for tensor, _ in sized if tensor.part == EMBEDDING), None)
    intermediate = next((one.rows for one, _ in sized if one.part == ROUTED and one.role == "ffn_up"), None)
    if intermediate is None or embedding is None:
        missing = "experts" if embedding else "embedding"
        raise ValueError(f"{where} has no {missing} in its table; give a file that is whole")
    from remoe_sim.models.sizes import check_top_k

    contexts = [_context(header, layer) for layer in range(layers)]
    unknown = [f"what layer {i} keeps per token cannot be told" for i, c in enumerate(contexts) if _unclear(c)][:1]
    if f"{family}.attention.sliding_window" in values:
        unknown.append("which layers look at a window only cannot be told from the file: all count as full")
    title = str(values.get("general.name", path.stem))
    return size(
        [tensor for tensor, _ in sized],
        [nbytes for _, nbytes in sized],
        contexts,
        check_top_k(top_k, number("expert_used_count"), experts),
        name=_PART.sub("", path.name).removesuffix(".gguf"),
        title=title,
        quant=_quant(header),
        layers=layers,
        moe_layers=moe_layers,
        experts=experts,
        hidden_size=embedding.columns,
        expert_intermediate=intermediate,
        vocabulary=embedding.rows,
        tied_embeddings=not any(tensor.role == "output" for tensor, _ in sized),
        published_parameters=None,
        published_active_parameters=None,
        status="verified",
        source=f"tensor table of {path.name}",
        unknown=tuple(unknown),
        unverified=(),
        assumptions=(),
        notes=(f"{left_out} tensors of layers for multi-token prediction are left out",) if left_out else (),
    )


def first_part(path: Path) -> Path:
    """The first part of a model that was split into files, from any of them; the file itself if it is whole."""
    match = _PART.search(path.name)
    return path if match is None else path.with_name(_PART.sub(f"-00001-of-{match[2]}.gguf", path.name))


def _unclear(context: Context) -> bool:
    return context.kv_bytes_per_token is None


def _read_all(path: Path, where: str) -> Header:
    """The header of a file, or the headers of all parts together."""
    match = _PART.search(path.name)
    if match is None:
        return _read(path, where)
    parts = [path.with_name(_PART.sub(f"-{i + 1:05}-of-{match[2]}.gguf", path.name)) for i in range(int(match[2]))]
    for part in parts:
        if not part.exists():
            raise ValueError(
                f"{where} is one of {len(parts)} parts and '{part.name}' is missing; put all in one folder"
            )
    headers = [_read(part, f"GGUF file '{part}'") for part in parts]
    return Header(headers[0].values, [entry for header in headers for entry in header.entries])


def _read(path: Path, where: str) -> Header:
    try:
        return read_header(path)
    except ImportError:
        raise ValueError(NEEDED) from None
    except OSError as error:
        raise ValueError(f"{where} cannot be read ({error.strerror or error}); give the path of a GGUF file") from None
    except (ValueError, KeyError) as error:
        raise ValueError(f"{where} is no whole GGUF file ({error}); fetch it again") from None


def _tensors(entry: TensorEntry, layers: int) -> list[Tensor]:
    """What a tensor of the table is; one that holds gate and up together is two; none where its layer is left out."""
    columns, rows, many = (*entry.shape, 1, 1, 1)[:3]
    match = _BLOCK.fullmatch(entry.name)
    if match is None:
        if entry.name == "token_embd.weight":
            return [Tensor("token_embd", rows, columns, part=EMBEDDING)]
        return [Tensor("output" if entry.name == "output.weight" else VECTOR, rows, columns, part=HEAD)]
    layer, name, ending = int(match[1] or match[4]), match[2] or match[5], match[3]
    if layer >= layers:
        return []
    if routed := _ROUTED.fullmatch(name):
        if ending == "bias":
            return [Tensor(VECTOR, 1, columns, layer, EXPERT_BIAS, rows)]
        names = ["gate", "up"] if routed[1] == "gate_up" else [routed[1]]
        return [Tensor(f"ffn_{one}", rows // len(names), columns, layer, ROUTED, many) for one in names]
    part = SHARED if name.endswith("_shexp") else DENSE
    role = ROUTER if name == "ffn_gate_inp" else name if rows > 1 and entry.kind != "f32" else VECTOR
    return [Tensor(role, rows, columns, layer, part, many)]


def _context(header: Header, layer: int) -> Context:
    """What a layer keeps per token, from the tensors that make it."""
    start = f"blk.{layer}."
    rows = {one.name.removeprefix(start): one.shape for one in header.entries if one.name.startswith(start)}
    keys, values = rows.get("attn_k.weight"), rows.get("attn_v.weight")
    latent = rows.get("attn_kv_a_mqa.weight")
    if latent:
        return Context(latent[1] * CACHE_BYTES)
    if keys:
        return Context((keys[1] + (values or keys)[1]) * CACHE_BYTES)
    if any(name.startswith(("ssm_", "shortconv")) for name in rows):
        return Context(0)
    return Context(None)


def _quant(header: Header) -> str:
    """The scheme that the file names, else the type that most bytes are of."""
    from gguf import LlamaFileType

    try:
        return LlamaFileType(header.values["general.file_type"]).name.removeprefix("MOSTLY_").lower()
    except (KeyError, ValueError):
        by_kind: dict[str, int] = {}
        for entry in header.entries:
            by_kind[entry.kind] = by_kind.get(entry.kind, 0) + entry.nbytes
        return max(by_kind, key=lambda kind: by_kind[kind])
