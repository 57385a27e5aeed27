"""SGLang's recorder: requests found again, physical experts, padding, and files that are refused."""

import pickle
import zipfile

import numpy as np
import pytest

from remoe_sim import import_trace
from remoe_sim.formats.source import Source
from remoe_sim.formats.torch_files import read_torch
from tests.support.foreign_files import SGLANG_ROWS, sglang_records
from tests.support.imported import refused, rows_of
from tests.support.torch_writing import tensor, torch_save


def saved(folder, value):
    return torch_save(value, folder / "r.pt")


def test_physical_experts_become_logical(tmp_path):
    """With redundant experts an expert lies in several places; the map is per layer."""
    logical = np.tile([3, 0, 5, 1, 7, 2, 6, 4, 0, 5], (3, 1))
    physical = sglang_records()
    for record in physical["records"]:
        topk = record["topk_ids_of_layer"].array
        for _, row in np.ndenumerate(np.arange(topk.shape[0])):
            places = np.array([8, 3, 5, 0, 7, 9, 6, 4])  # the last place of each logical expert, or its only one
            topk[row] = np.where(topk[row] < 0, -1, places[np.maximum(topk[row], 0)])
    physical["last_physical_to_logical_map"] = tensor(logical)
    trace = import_trace(saved(tmp_path, physical))
    assert rows_of(trace) == SGLANG_ROWS
    assert trace.model.experts == (8, 8)
    assert "mapped from physical to logical" in trace.notes
    assert "mapped" not in import_trace(saved(tmp_path, sglang_records())).notes


def test_request_ids_where_early_versions_have_them(tmp_path):
    value = sglang_records()
    for record, rids in zip(value["records"], (["a", "b"], ["b", "a"], ["a"], ["a"]), strict=True):
        record["rids"] = rids
    trace = import_trace(saved(tmp_path, value))
    assert trace.request.tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert "no request ids" not in trace.notes


def test_a_prompt_in_chunks_and_a_later_request(tmp_path):
    def record(positions, lengths=None):
        topk = np.tile(np.arange(8, dtype=np.int32), (1, len(positions), 1))
        return {"positions": positions, "input_ids": [], "extend_seq_lens": lengths, "topk_ids_of_layer": tensor(topk)}

    records = [
        record([0, 1, 2], [3]),
        record([3, 4], [2]),
        record([5]),
        record([0, 1], [2]),
        record([6, 2]),
        record([3]),
    ]
    trace = import_trace(saved(tmp_path, {"records": records}))
    assert trace.request.tolist() == [0] * 6 + [1, 1, 0, 1, 1]
    assert trace.token_id is None
    assert "ids are taken as logical" in trace.notes


def test_padding_of_a_batch_and_empty_passes(tmp_path):
    value = sglang_records()
    one = value["records"][2]
    one["topk_ids_of_layer"] = tensor(
        np.concatenate([one["topk_ids_of_layer"].array, np.zeros((3, 5, 8), np.int32)], 1)
    )
    empty = {"positions": [], "topk_ids_of_layer": tensor(np.zeros((3, 0, 8), np.int32)), "extend_seq_lens": None}
    value["records"].insert(1, empty)
    value["records"].append(value["records"][0] | {"gatherer_key": "draft"})
    trace = import_trace(saved(tmp_path, value))
    assert rows_of(trace) == SGLANG_ROWS
    assert "padding of the batch" in trace.notes
    assert "other than 'primary'" in trace.notes


def test_other_modes_of_the_recorder_are_refused(tmp_path):
    counts = tensor(np.zeros((3, 8), np.int64))
    refused(saved(tmp_path, {"records": [{"global_physical_count": counts}]}), "mode per_pass", "mode per_token")
    refused(saved(tmp_path, {"rank": 0, "logical_count": counts}), "mode stat", "mode per_token")


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"positions": [0, 1]}, "record 0: extend_seq_lens does not add up to the 2 positions"),
        ({"positions": [0, 1, 0, 4]}, "record 0: 3 tokens in topk_ids_of_layer, but 4 positions"),
        ({"positions": [0, -1, 0]}, "record 0: positions is not a list"),
        ({"positions": None}, "record 0: positions is not a list"),
        ({"topk_ids_of_layer": [1, 2]}, "record 0: topk_ids_of_layer is no tensor"),
        ({"topk_ids_of_layer": tensor(np.full((2, 3, 8), -1, np.int32))}, "record 1: topk_ids_of_layer is"),
        ({"topk_ids_of_layer": tensor(np.full((3, 3, 8), 9, np.int32))}, "expert 9 is not among the 8"),
        (
            {"topk_ids_of_layer": tensor(np.full((3, 3, 8), 4, np.int32))},
            "record 0: token 0, layer 0: expert 4 appears",
        ),
    ],
)
def test_malformed_records(tmp_path, changed, part):
    value = sglang_records()
    value["records"][0] |= changed
    refused(saved(tmp_path, value), part)


def test_malformed_files(tmp_path):
    refused(saved(tmp_path, sglang_records(records=[])), "no record has tokens")
    refused(saved(tmp_path, sglang_records(records=7)), "there are no records")
    wrong = tensor(np.zeros((2, 8), np.int64))
    refused(saved(tmp_path, sglang_records(last_physical_to_logical_map=wrong)), r"shape \(2, 8\)")
    path = saved(tmp_path, sglang_records())
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, "damaged or truncated archive")
    path.write_bytes(b"\x80\x02}q\x00.")
    refused(path, "not a file of torch.save", format="sglang-recorder")


class Harmful:
    def __reduce__(self):
        return print, ("this must never run",)


def test_nothing_but_tensors_is_unpickled(tmp_path, capsys):
    path = tmp_path / "r.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("r/data.pkl", pickle.dumps({"records": [Harmful()], "topk_ids_of_layer": 1}, 2))
    refused(path, "it holds '(__builtin__|builtins).print', but only tensors, lists and dictionaries are read")
    assert capsys.readouterr().out == ""


def test_tensors_of_all_types_and_layouts(tmp_path):
    half = np.array([1.5, -2, 0.25, 8], np.float16)
    brain = (np.array([1.5, -2, 0.25], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    value = {
        "half": tensor(half),
        "brain": tensor(brain, "BFloat16Storage"),
        "truth": tensor(np.array([True, False]), "BoolStorage"),
        "transposed": tensor(np.arange(6), shape=(3, 2), stride=(1, 3)),
        "tail": tensor(np.arange(6), shape=(2,), stride=(1,), offset=4),
        "one": tensor(np.arange(1), shape=(), stride=()),
    }
    read = read_torch(Source(saved(tmp_path, value)))
    assert read["half"].tolist() == half.tolist()
    assert read["brain"].tolist() == [1.5, -2, 0.25]
    assert read["truth"].tolist() == [True, False]
    assert read["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (read["tail"].tolist(), read["one"].tolist()) == ([4, 5], 0)


@pytest.mark.parametrize(
    "layout", [{"offset": 5}, {"stride": (9,)}, {"stride": (-1,)}, {"shape": (7,), "stride": (1,)}]
)
def test_a_tensor_cannot_reach_beyond_its_numbers(tmp_path, layout):
    records = sglang_records()
    records["records"][0]["positions"] = tensor(np.arange(3), **layout)
    refused(saved(tmp_path, records), "reaches beyond its numbers|zip\\(\\)")
