"""What torch itself saves is read as it was: the recorder's files, all types of numbers, views of any layout."""

import numpy as np
import pytest

from remoe_sim import import_trace
from remoe_sim.formats.source import Source
from remoe_sim.formats.torch_files import read_torch
from tests.support.foreign_files import SGLANG_ROWS, sglang_records
from tests.support.imported import refused, rows_of

pytestmark = pytest.mark.heavy("torch")


def of_torch(value):
    """The stand-ins for tensors in a value as tensors."""
    import torch

    if isinstance(value, dict):
        return {key: of_torch(one) for key, one in value.items()}
    if isinstance(value, list):
        return [of_torch(one) for one in value]
    return torch.from_numpy(value.array.copy()) if hasattr(value, "storage") else value


def saved(value, path, **options):
    import torch

    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64"])
def test_a_recording_that_torch_saved(tmp_path, dtype):
    """As SGLang's recorder dumps it: one object with tensors on the processor."""
    import torch

    value = of_torch(sglang_records())
    for record in value["records"]:
        record["topk_ids_of_layer"] = record["topk_ids_of_layer"].to(getattr(torch, dtype))
    assert rows_of(import_trace(saved(value, tmp_path / "r.pt"))) == SGLANG_ROWS


def test_a_recording_of_views(tmp_path):
    """Buffers are kept as views of larger ones, with strides of their own."""
    import torch

    value = of_torch(sglang_records())
    for record in value["records"]:
        ids = record["topk_ids_of_layer"]
        layers, tokens, slots = ids.shape
        buffer = torch.full((tokens + 3, layers, slots + 2), -1, dtype=torch.int64)
        view = buffer[2 : 2 + tokens, :, 1 : 1 + slots].transpose(0, 1)
        view.copy_(ids)
        record["topk_ids_of_layer"] = view
        assert not view.is_contiguous()
    assert rows_of(import_trace(saved(value, tmp_path / "r.pt"))) == SGLANG_ROWS


def test_types_and_layouts(tmp_path):
    import torch

    base = torch.arange(24).reshape(2, 3, 4)
    names = ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool")
    value = {name: (base % 2 if name == "bool" else base).to(getattr(torch, name)) for name in names}
    value |= {
        "transposed": base.transpose(0, 2),
        "strided": base[:, ::2, 1:],
        "expanded": base[:1, :1].expand(5, 3, 4),
        "empty": base[:0],
        "scalar": torch.tensor(7),
        "shared": [base[0], base[1]],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": base.shape,
    }
    read = read_torch(Source(saved(value, tmp_path / "v.pt")))
    for name in (*names, "transposed", "strided", "expanded", "empty", "scalar", "parameter"):
        expected = value[name].detach().float() if name in ("bfloat16", "parameter") else value[name]
        assert np.array_equal(read[name], expected.numpy()), name
    assert [one.tolist() for one in read["shared"]] == [base[0].tolist(), base[1].tolist()]
    assert tuple(read["size"]) == (2, 3, 4)


def test_what_is_refused(tmp_path):
    import torch

    class Harmful:
        def __reduce__(self):
            return print, ("this must never run",)

    refused(saved({"records": [Harmful()], "logical_count": 1}, tmp_path / "h.pt"), "it holds '.*print'")
    old = saved({"records": []}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused(old, "not a file of torch.save in its zip format", format="sglang-recorder")
    whole = {"records": [torch.nn.Linear(2, 2)], "logical_count": 1}
    refused(saved(whole, tmp_path / "module.pt"), "only tensors, lists and dictionaries are read")
