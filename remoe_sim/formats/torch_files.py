"""Files of torch.save read without torch: tensors become arrays, and nothing but containers and tensors is unpickled.

The layout is that of torch's zip format: NAME/data.pkl is a pickle whose tensors point to NAME/data/KEY, raw numbers.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source

_TYPES = {
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?", "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
}  # fmt: skip

_OPERATIONS = re.compile(
    r"PROTO|FRAME|STOP|MARK|POP|POP_MARK|DUP|((LONG_)?BIN)?(PUT|GET)|MEMOIZE|NONE|NEWTRUE|NEWFALSE|INT|BININT[12]?"
    r"|LONG[14]?|(BIN)?FLOAT|((SHORT_)?BIN)?STRING|((SHORT_)?BIN)?UNICODE8?|(SHORT_)?BINBYTES8?|(EMPTY_)?LIST|APPENDS?"
    r"|(EMPTY_)?TUPLE[123]?|(EMPTY_)?DICT|SETITEMS?|EMPTY_SET|ADDITEMS|FROZENSET|(STACK_)?GLOBAL|REDUCE|BINPERSID"
)
_MOST_REPEATED = 64  # times that a tensor may show each number of its storage


def torch_pickle(source: Source) -> bytes:
    """The pickle in a file of torch.save, for a look at the names in it; nothing for other files."""
    member = next((name for name in source.members if name.split("/")[-1] == "data.pkl"), None)
    if member is None:
        return b""
    try:
        with source.archive() as archive:
            return archive.read(member)
    except Exception:  # a broken archive fails in many ways; reading it says how
        return b""


def read_torch(source: Source) -> Any:
    """What torch.save has saved; TraceError for a damaged file, and for anything but containers and tensors."""
    member = next((name for name in source.members if name.split("/")[-1] == "data.pkl"), None)
    if member is None:
        raise source.error("not a file of torch.save in its zip format; save it again with a recent torch")
    try:
        with source.archive() as archive:
            raw = archive.read(member)
            _check_operations(raw)
            return _Restricted(archive, raw, member.removesuffix("data.pkl")).load()
    except TraceError:
        raise
    except _RefusedError as refused:
        raise source.error(
            f"it holds '{refused}', but only tensors, lists and dictionaries are read; save just these"
        ) from None
    except Exception as error:  # a broken archive or pickle fails in many ways
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise source.error(
            f"cannot be read as a file of torch.save ({why}), perhaps truncated; copy it again"
        ) from None


def _check_operations(raw: bytes) -> None:
    """Refuses what no container of tensors needs, and places of the memo beyond what there can be: room is made for
    all places below one."""
    for operation, argument, _ in pickletools.genops(raw):
        if not _OPERATIONS.fullmatch(operation.name):
            raise _RefusedError(operation.name)
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(raw):
            raise ValueError(f"a pickle of {len(raw)} bytes with {argument} values")


class _RefusedError(Exception):
    """A class or function that is neither a container nor part of a tensor."""


class _Restricted(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, raw: bytes, folder: str) -> None:
        super().__init__(io.BytesIO(raw), encoding="utf-8")
        self._archive, self._folder = archive, folder
        order = f"{self._folder}byteorder"
        self._order = ">" if order in archive.namelist() and archive.read(order).strip() == b"big" else "<"

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> npt.NDArray[Any]:
        """The numbers of a storage, from ("storage", type, key, device, count)."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in _TYPES.values():
            raise ValueError("a tensor without numbers")
        raw = self._archive.read(f"{self._folder}data/{key}")
        flat = np.frombuffer(raw, self._order + ("u2" if dtype == "bf16" else dtype))
        if flat.size < count:
            raise ValueError(f"a tensor of {count} numbers has {flat.size}")
        if dtype == "bf16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat[:count]


def _tensor(storage: npt.NDArray[Any], offset: int, size: Any, stride: Any, *_: Any) -> npt.NDArray[Any]:
    """A view of a storage; ValueError if it would reach beyond."""
    reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min([offset, *size, *stride]) < 0 or (0 not in size and reach >= storage.size):
        raise ValueError("a tensor reaches beyond its numbers")
    if math.prod(size) > max(2**20, _MOST_REPEATED * storage.size):
        raise ValueError(f"a tensor of {math.prod(size)} numbers has {storage.size}")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), strides, writeable=False)


def _parameter(data: npt.NDArray[Any], *_: Any) -> npt.NDArray[Any]:
    """The tensor of a parameter."""
    return data
