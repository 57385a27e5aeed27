"""Whole numbers at the limits of their types, in the layout of every importer: a refusal or the exact number."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remoe_sim import TraceError, import_trace
from remoe_sim.formats.format import PACKAGE, TraceFormat
from remoe_sim.util.plugins import plugins
from tests.support import foreign_files, more_foreign
from tests.support.bigmoe import PREAMBLE, ROWS, capture
from tests.support.foreign_files import FOREIGN, b64, flame_moe, json_file, lines_file, text_file
from tests.support.imported import rows_of
from tests.support.more_foreign import MORE
from tests.support.plain_files import LONG, WIDE, long_csv, objects, wide_csv, write_csv, write_jsonl, write_npz
from tests.support.torch_writing import tensor, torch_save

MARK = 54321  # of no other number in a fixture
POWERS = (8, 15, 16, 31, 32, 40, 53, 63, 64)
NUMBERS = sorted(
    {sign * 2**power + more for power in POWERS for more in (-1, 0, 1, 3) for sign in (1, -1)} | {-1, -2, -5, 70000}
)
TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
IDS = {name: one for name, one in FOREIGN.items() if name.split()[0] != "bigmoe"}


def marked(number=MARK, dtype="int64"):
    """The first fixture's ids with a number in one place."""
    ids = foreign_files.FIRST.astype(dtype)
    ids[3, 0, 0] = number
    return ids


# files of text: the mark is replaced in it


def foreign_text(name):
    def write(folder, number, patch):
        patch.setattr(foreign_files, "FIRST", marked())
        path = FOREIGN[name].write(folder)
        patch.undo()
        path.write_text(path.read_text(encoding="utf-8").replace(str(MARK), str(number)), encoding="utf-8")
        return path

    return write


def more_text(name):
    def write(folder, number, patch):
        patch.setattr(more_foreign, "FIRST", marked())
        path = MORE[name].write(folder)
        patch.undo()
        path.write_text(path.read_text(encoding="utf-8").replace(str(MARK), str(number)), encoding="utf-8")
        return path

    return write


def layer_json(folder, number, patch):
    text = json.dumps({"selected_experts": marked()[:, 0].tolist()})
    return text_file(folder, "routing_L0.json", text.replace(str(MARK), str(number)))


def moelens_text(folder, number, patch):
    whole = foreign_files.moelens()
    whole["layers"][1]["tokens"][3]["top_experts"][0] = number
    return json_file(folder, "m.json", whole)


def bigmoe_text(folder, number, patch):
    rows = ROWS.replace("0,1,2,1,0,7", f"0,1,2,1,0,{number}")
    return capture(folder, rows, PREAMBLE.replace("n_expert=8", "n_expert=65536"))


def csv_text(header, lines):
    def write(folder, number, patch):
        last = lines[-1].rpartition(",")[0]
        return write_csv(folder, header, [*lines[:-1], f"{last},{number}"])

    return write


def jsonl_text(folder, number, patch):
    records = objects()
    records[-1]["experts"] = [0, number]
    return write_jsonl(folder, records)


TEXTS = {
    name: foreign_text(name)
    for name in (
        "vllm outputs", "exp-ids", "core12345", "gpt-oss", "moe-beyond", "vllm-routes", "vllm-routes two layers",
        "speculative-moe", "speculative-moe raw", "lattice", "llamacpp", "colibri", "imp", "imp flat", "imp bare",
        "imp list", "kimi-linear",
    )
} | {
    name: more_text(name)
    for name in (
        "warp", "warp-native", "moe-cache-lab", "routes-layers", "onnx-genai", "router-trace", "nested-json",
        "nested-json field", "jsonl playbook",
    )
} | {
    "layer-json": layer_json, "moelens": moelens_text, "bigmoe": bigmoe_text, "csv long": csv_text(LONG, long_csv()),
    "csv wide": csv_text(WIDE, wide_csv()), "jsonl": jsonl_text,
}  # fmt: skip


# files of arrays: the ids are written in each type that can hold them


def b64_npy(ids):
    import base64
    import io

    buffer = io.BytesIO()
    np.save(buffer, ids)
    return base64.b64encode(buffer.getvalue()).decode()


def vllm_npy(folder, ids):
    np.save(folder / "v.npy", ids)
    return folder / "v.npy"


def vllm_npz(folder, ids):
    np.savez(folder / "v.npz", prompt_routed_experts=ids[:2].astype(np.int64), routed_experts=ids[2:])
    return folder / "v.npz"


def vllm_object(folder, ids):
    given = {"data": b64(ids, ids.dtype), "dtype": str(ids.dtype), "shape": list(ids.shape)}
    return json_file(folder, "v.json", {"prompt_token_ids": [1, 2], "outputs": [{"routed_experts": given}]})


def vllm_response(folder, ids):
    whole = foreign_files.vllm_response()
    whole["choices"] = [{"index": 0, "routed_experts": b64_npy(ids[2:])}]
    whole["usage"]["completion_tokens"] = 4
    return json_file(folder, "v.json", whole)


def vllm_wrapped(folder, ids):
    one = {"num_prompt_tokens": 2, "experts_shape": list(ids.shape), "experts_b64": b64(ids)}
    return lines_file(folder, "v.jsonl", [one])


def sglang(folder, ids):
    (one, _) = foreign_files.sglang_generate()
    one["meta_info"]["routed_experts"] = b64(ids)
    return json_file(folder, "s.json", one)


def recorder(folder, ids, **changed):
    record = {
        "input_ids": list(range(5)), "positions": list(range(5)), "extend_seq_lens": [5],
        "topk_ids_of_layer": tensor(ids.transpose(1, 0, 2)),
    }  # fmt: skip
    return torch_save({"records": [record | changed]}, folder / "r.pt")


def cecar(folder, ids):
    val = np.broadcast_to(np.float16([0.75, 0.25]), ids.shape)[:, None]
    one = {"type": "topk", "idx": tensor(ids[:, None]), "val": tensor(val)}
    return torch_save(
        foreign_files.cecar(routing_decode=[one], prompt_len=[97], eos_pos_in_decode=[-1]), folder / "c.pt"
    )


def flame(folder, ids):
    kind = pa.list_(pa.from_numpy_dtype(ids.dtype))
    changed = {f"layer_{layer}": {"indices": pa.array(list(ids[:, layer]), kind)} for layer in range(2)}
    return flame_moe(folder, **changed)


def tables(folder, ids):
    kind = pa.list_(pa.from_numpy_dtype(ids.dtype))
    columns = {"token": np.repeat(np.arange(5), 2), "layer": np.tile([0, 1], 5)}
    pq.write_table(pa.table(columns | {"experts": pa.array(list(ids.reshape(10, 2)), kind)}), folder / "t.parquet")
    return folder / "t.parquet"


def tensors(folder, ids):
    return write_npz(folder, expert_ids=ids)


def binary(name):
    def write(folder, ids):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(more_foreign, "FIRST", ids)
            return MORE[name].write(folder)

    return write


def npz(folder, ids):
    return write_npz(folder, experts=ids)


TORCH = ("int8", "uint8", "int16", "int32", "int64")
ARRAYS = {
    "vllm npy": (vllm_npy, TYPES), "vllm npz": (vllm_npz, TYPES), "vllm object": (vllm_object, TYPES[:-1]),
    "vllm response": (vllm_response, TYPES), "vllm base64": (vllm_wrapped, ("int32",)), "sglang": (sglang, ("int32",)),
    "sglang-recorder": (recorder, TORCH), "cecar": (cecar, TORCH), "flame-moe": (flame, TYPES), "npz": (npz, TYPES),
    "tables": (tables, TYPES), "tensors": (tensors, TYPES), "k3-route": (binary("k3-route"), ("int32",)),
    "kimi-k3-c": (binary("kimi-k3-c"), ("int32",)), "q4trte": (binary("q4trte"), ("uint16",)),
}  # fmt: skip
OPTIONS = {"llamacpp": {"top_k": 2}, "imp bare": {"top_k": 2}, "sglang": {"top_k": 2}}
PLAIN = ("csv", "jsonl", "npz", "tables")
MINUS_ONE = ("vllm", "sglang-recorder", "warp", "onnx-genai", "nested-json", "layer-json", "tensors")


def empty(name, number):
    """Whether the format says that this number stands for a slot that was not computed."""
    kind = name.split()[0]
    return number < 0 if kind in PLAIN else number == -1 and kind in MINUS_ONE


def with_number(rows, number):
    """The rows with a number, or None, where the mark is."""

    def changed(decision):
        return decision and [number if one == MARK else one for one in decision]

    return [replace(row, decisions=[changed(one) for one in row.decisions]) for row in rows]


def found_or_refused(read, path, **options):
    """What is read of the imported trace, or None where one sentence that names the file refuses it."""
    try:
        return read(import_trace(path, **options))
    except TraceError as error:
        sentence = str(error)
    assert str(path) in sentence
    assert "\n" not in sentence
    return None


def assert_refused_or_exact(path, expected, name, number):
    """With and without the number of experts: one sentence, or just these rows."""
    options = OPTIONS.get(name, {})
    for more in ({}, {"experts": 65536}):
        found = found_or_refused(rows_of, path, format=name.split()[0], **options, **more)
        if found is None:
            assert not empty(name, number) or number < -(2**31)
        else:
            assert found == expected, f"{name} reads {number} as another one"
            assert 0 <= number < 65536 or empty(name, number)


def test_every_format_is_tried():
    assert {name.split()[0] for name in (*TEXTS, *ARRAYS)} == set(plugins(PACKAGE, TraceFormat))


@pytest.mark.parametrize("name", TEXTS)
def test_ids_in_text(tmp_path, monkeypatch, name):
    options = OPTIONS.get(name, {})
    rows = rows_of(import_trace(TEXTS[name](tmp_path, MARK, monkeypatch), experts=65536, **options))
    assert with_number(rows, None) != rows
    for number in NUMBERS:
        path = TEXTS[name](tmp_path, number, monkeypatch)
        expected = with_number(rows, None if empty(name, number) else number)
        assert_refused_or_exact(path, expected, name, number)


@pytest.mark.parametrize("name", ARRAYS)
def test_ids_in_arrays(tmp_path, name):
    write, types = ARRAYS[name]
    whole = write(tmp_path, marked(dtype="uint16" if name == "q4trte" else "int32"))
    rows = rows_of(import_trace(whole, experts=65536, format=name.split()[0], **OPTIONS.get(name, {})))
    assert with_number(rows, None) != rows
    for number in NUMBERS:
        for dtype in types:
            if np.iinfo(dtype).min <= number <= np.iinfo(dtype).max:
                path = write(tmp_path, marked(number, dtype))
                expected = with_number(rows, None if empty(name, number) else number)
                assert_refused_or_exact(path, expected, name, number)


@pytest.mark.parametrize("cell", [True, False])
def test_a_truth_value_is_not_an_id(tmp_path, cell):
    for folder, lines in (("a", [{"request": 0, "position": 0, "phase": "decode", "layer": 0, "experts": [cell, 5]}]),
                          ("b", [{"input_ids": [1], "exp_ids": [[[cell], [5]]]}])):  # fmt: skip
        (tmp_path / folder).mkdir()
        with pytest.raises(TraceError, match=r"list of whole numbers|whole numbers in 3 levels"):
            import_trace(lines_file(tmp_path / folder, "t.jsonl", lines))


# what describes tokens


def plain_table(column):
    """The plain formats with a number in a column of the last token, and what reads the column."""

    def csv(folder, number):
        lines = [f"0,{at},decode,0,{at},{at},5" for at in range(3)]
        cells = lines[-1].split(",")
        cells[("request", "position", "phase", "layer", "step", "token_id").index(column)] = str(number)
        return write_csv(folder, "request,position,phase,layer,step,token_id,expert", [*lines[:-1], ",".join(cells)])

    def jsonl(folder, number):
        lines = [
            {"request": 0, "position": at, "phase": "decode", "layer": 0, "step": at, "token_id": at, "experts": [5]}
            for at in range(3)
        ]
        lines[-1][column] = number
        return write_jsonl(folder, lines)

    return {"csv": csv, "jsonl": jsonl}


def npz_array(name):
    def write(folder, number):
        values = [0, 1, number]
        return write_npz(folder, experts=np.full((3, 1, 1), 5), **{name: values})

    return write


def npz_layer(folder, number):
    return write_npz(folder, experts=np.full((3, 1, 1), 5), layer_numbers=[number])


def lattice(name):
    def write(folder, number):
        lines = foreign_files.lattice()
        lines[-1][name] = number
        return lines_file(folder, "l.jsonl", lines)

    return write


def exp_ids(folder, number):
    (first, _) = foreign_files.exp_ids()
    first["input_ids"][-1] = number
    return lines_file(folder, "e.jsonl", [first])


def vllm_tokens(folder, number):
    (first, _) = foreign_files.vllm_outputs()
    first["prompt_token_ids"][-1] = number
    return json_file(folder, "v.json", first)


def recorder_list(name):
    def write(folder, number):
        return recorder(folder, foreign_files.FIRST.astype("int64"), **{name: [0, 1, 2, 3, number]})

    return write


def cecar_prompt(folder, number):
    one = foreign_files.cecar(prompt_len=[number, 40])
    return torch_save(one, folder / "c.pt")


def flame_tokens(folder, number):
    import pyarrow.parquet as pq

    path = flame_moe(folder, samples=False)
    (path / "samples").mkdir(exist_ok=True)
    kind = pa.int64() if number < 2**63 else pa.uint64()
    pq.write_table(pa.table({"token_id": pa.array([7, 8, 9, 10, number], kind)}), path / "samples" / "000.parquet")
    return path


def gpt_oss_position(folder, number):
    whole = foreign_files.gpt_oss()
    text = json.dumps(whole).replace('"token_17"', f'"token_{number}"')
    (folder / "g.json").write_text(text)
    return folder / "g.json"


def column(name):
    return lambda trace: getattr(trace, name)


def layers(trace):
    return trace.layer_numbers


def first_position(trace):
    return trace.position[:1]


COLUMNS = {
    **{
        f"{kind} {name}": (write, layers if name == "layer" else column(name))
        for name in ("request", "position", "step", "layer", "token_id")
        for kind, write in plain_table(name).items()
    },
    "npz positions": (npz_array("positions"), column("position")),
    "npz step": (npz_array("step"), column("step")),
    "npz token_id": (npz_array("token_id"), column("token_id")),
    "npz layer_numbers": (npz_layer, layers),
    "lattice token_idx": (lattice("token_idx"), column("position")),
    "lattice layer_idx": (lattice("layer_idx"), layers),
    "exp-ids input_ids": (exp_ids, column("token_id")),
    "vllm prompt_token_ids": (vllm_tokens, column("token_id")),
    "sglang-recorder positions": (recorder_list("positions"), column("position")),
    "sglang-recorder input_ids": (recorder_list("input_ids"), column("token_id")),
    "cecar prompt_len": (cecar_prompt, first_position),
    "flame-moe token_id": (flame_tokens, column("token_id")),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_what_describes_tokens(tmp_path, name):
    write, read = COLUMNS[name]
    kind = name.split()[0]
    for number in NUMBERS:
        if kind == "flame-moe" and not -(2**63) <= number < 2**64:
            continue
        if name.startswith("npz") and not -(2**63) <= number < 2**64:
            continue
        answer = found_or_refused(lambda trace: (read(trace), trace.notes), write(tmp_path, number), format=kind)
        if answer is None:
            continue
        found, notes = answer
        if found is None or "are named by text" in notes:
            assert "left out" in notes or "are named by text" in notes
            continue
        assert number in [int(one) for one in found], f"{name}: {number} became {found}"
        assert min(found) >= 0
