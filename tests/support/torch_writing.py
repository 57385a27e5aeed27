"""Files as torch.save writes them, without torch: its zip format, with the pickle that torch's own classes give."""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np

_STORAGES = {
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "float32": "FloatStorage", "float16": "HalfStorage",
}  # fmt: skip


class _Tensor:
    """Stands for a tensor: pickled as torch pickles one."""

    def __init__(self, array, storage, stride=None, offset=0, shape=None):
        self.array, self.storage, self.offset = np.ascontiguousarray(array), storage, offset
        self.shape = self.array.shape if shape is None else shape
        self.stride = tuple(step // self.array.itemsize for step in self.array.strides) if stride is None else stride

    def __reduce__(self):
        storage = _Storage(self)
        args = (storage, self.offset, tuple(self.shape), tuple(self.stride), False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, args


class _Storage:
    def __init__(self, tensor):
        self.tensor = tensor


class _Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []

    def persistent_id(self, value):
        if not isinstance(value, _Storage):
            return None
        self.storages.append(value.tensor)
        kind = getattr(sys.modules["torch"], value.tensor.storage)
        return ("storage", kind, str(len(self.storages) - 1), "cuda:0", value.tensor.array.size)


def tensor(array, storage=None, **layout):
    """A tensor of an array's numbers; storage: torch's name of the type."""
    array = np.asarray(array)
    return _Tensor(array, storage or _STORAGES[str(array.dtype)], **layout)


def torch_save(value, path):
    """Write what torch.save(value, path) would."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise NotImplementedError

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in (*_STORAGES.values(), "BFloat16Storage", "BoolStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    torch._utils = utils
    there = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        buffer = io.BytesIO()
        pickler = _Pickler(buffer)
        pickler.dump(value)
    finally:
        for name, module in there.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    with zipfile.ZipFile(path, "w") as archive:
        folder = path.name.removesuffix(".pt")
        archive.writestr(f"{folder}/data.pkl", buffer.getvalue())
        archive.writestr(f"{folder}/byteorder", "little")
        for key, one in enumerate(pickler.storages):
            archive.writestr(f"{folder}/data/{key}", one.array.tobytes())
        archive.writestr(f"{folder}/version", "3\n")
    return path
