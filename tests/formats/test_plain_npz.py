"""Plain npz: options, every malformed variant, and the real fingerprints of gpt-oss-20b."""

import json

import numpy as np
import pyarrow as pa
import pytest

from remoe_sim import import_trace
from tests.oracle.naive import DECODE, PREFILL
from tests.support.data import SHARED, needs_traces
from tests.support.imported import assert_round_trip, refused, rows_of
from tests.support.plain_files import LAYERS, LONG, ROWS, arrays, long_csv, write_csv, write_npz


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint64", "int64"])
def test_npz_of_any_integer_type(tmp_path, dtype):
    given = arrays()
    ids = np.maximum(given["experts"], 0) if dtype[0] == "u" else given["experts"]
    ids[2, 1, 1] = ids[2, 1, 1] or 6
    ids[0, 1] = ids[0, 1] if dtype[0] == "i" else (6, 7)
    trace = import_trace(write_npz(tmp_path, **given | {"experts": ids.astype(dtype)}))
    assert trace.decisions(0).experts.tolist() == ids[:, 0].tolist()


def test_npz_with_everything(tmp_path):
    given = arrays()
    given["layer_numbers"] = LAYERS[::-1]  # the arrays may have layers in any order
    given["experts"] = given["experts"][:, ::-1]
    weights = np.arange(24)[::-1].reshape(6, 2, 2) / 24
    more = {
        "positions": [7, 8, 9, 10, 0, 1], "token_id": [5, 4, 3, 2, 1, 0], "step": [0, 0, 1, 2, 2, 3],
        "weights": weights, "n_experts": 64, "n_layers": 6, "expert_bytes": [400, 100], "dense_bytes": 9,
        "name": "mine", "quant": "q4",
    }  # fmt: skip
    trace = import_trace(write_npz(tmp_path, **given, **more))
    assert [row.decisions for row in rows_of(trace)] == [row.decisions for row in ROWS]
    assert trace.position.tolist() == more["positions"]
    assert trace.token_id.tolist() == more["token_id"]
    assert trace.step.tolist() == more["step"]
    assert trace.source.weights(0) == pytest.approx(weights[:, 1])
    assert trace.source.weights(1)[0].tolist() == [0, 0]
    model = trace.model
    assert (model.name, model.quant, model.layers, model.experts) == ("mine", "q4", 6, (64, 64))
    assert (model.expert_bytes, model.dense_bytes) == ((100, 400), (9,) * 6)
    assert "layers are numbered" not in trace.notes
    assert "largest id" not in trace.notes
    assert_round_trip(trace, tmp_path)


@pytest.mark.parametrize("phase", [[0, 0, 1, 1, 0, 1], [PREFILL, PREFILL, DECODE, DECODE, PREFILL, DECODE]])
def test_npz_with_phases(tmp_path, phase):
    given = arrays()
    del given["prompt_lengths"]
    assert rows_of(import_trace(write_npz(tmp_path, **given, phase=phase))) == ROWS


def test_npz_alone_is_one_request_of_decode_tokens(tmp_path):
    trace = import_trace(write_npz(tmp_path, experts=arrays()["experts"]))
    assert (trace.requests, trace.layer_numbers) == (1, (0, 1))
    assert trace.position.tolist() == trace.step.tolist() == [0, 1, 2, 3, 4, 5]
    assert trace.phase.tolist() == [1] * 6
    for part in ("one request", "taken as decode", "numbered from 0"):
        assert part in trace.notes


def test_npz_with_first_positions(tmp_path):
    given = arrays()
    del given["prompt_lengths"]
    meta = [{"first_token_index": 97, "has_repetition": True}, {"first_token_index": 3}]
    trace = import_trace(write_npz(tmp_path, **given, meta=json.dumps(meta)))
    assert trace.position.tolist() == [97, 98, 99, 100, 3, 4]
    assert "1 of 2 requests are marked as repetition" in trace.notes
    other = import_trace(write_npz(tmp_path, **given, meta="made on a Tuesday"))
    assert other.position.tolist() == [0, 1, 2, 3, 0, 1]
    assert "'meta' not imported" in other.notes


def marked(tmp_path, name="m.npz"):
    """Two requests of which the file says more than where they start."""
    given = arrays()
    del given["prompt_lengths"]
    meta = [
        {"first_token_index": 97, "has_repetition": True, "dataset": "a=b", "n_gen": 4},
        {"first_token_index": 3, "has_repetition": False, "dataset": "c"},
    ]
    path = write_npz(tmp_path, **given, meta=json.dumps(meta))
    return path.rename(tmp_path / name)


@pytest.mark.parametrize(
    ("where", "request_kept"),
    [
        ("has_repetition=false", 1),
        ("has_repetition!=false", 0),
        ("dataset=a=b", 0),
        ("n_gen=null", 1),
        (["dataset!=c", "n_gen=4"], 0),
    ],
)
def test_requests_are_chosen_by_what_the_file_says_of_them(tmp_path, where, request_kept):
    path = marked(tmp_path)
    whole, some = import_trace(path), import_trace(path, where=where)
    rows = np.flatnonzero(whole.request == request_kept)
    for column in ("request", "position", "step", "phase", "token_id"):
        if getattr(whole, column) is not None:
            assert getattr(some, column).tolist() == getattr(whole, column)[rows].tolist()
    assert some.model == whole.model
    for (_, mine), (_, theirs) in zip(some.layers(), whole.layers(), strict=True):
        assert np.array_equal(mine.experts, theirs.experts[rows])
    assert "kept are the 1 of 2 requests where" in some.notes
    assert_round_trip(some, tmp_path)


def test_requests_are_chosen_from_several_inputs(tmp_path):
    first, second = marked(tmp_path, "1.npz"), marked(tmp_path, "2.npz")
    both = import_trace([first, second], where="dataset=c")
    assert both.requests == 2
    assert both.position.tolist() == [3, 4] * 2
    assert "kept are the 2 of 4 requests where dataset=c" in both.notes


def test_choices_of_requests_that_are_refused(tmp_path):
    path = marked(tmp_path)
    refused(
        path,
        "does not say 'has_repetitio' of its requests",
        "first_token_index, has_repetition",
        where="has_repetitio=1",
    )
    refused(path, "no request is left where dataset=d", "dataset is a=b, c", where="dataset=d")
    refused(write_npz(tmp_path, **arrays()), "says nothing of its requests", where="a=b")
    with pytest.raises(ValueError, match="'dataset' is no condition; write NAME=VALUE"):
        import_trace(path, where="dataset")


MALFORMED_NPZ = {
    "two axes": ({"experts": np.zeros((6, 2), int)}, ["'experts'", r"\(6, 2\)", "tokens, layers, k"]),
    "no tokens": ({"experts": np.zeros((0, 2, 2), int)}, ["'experts'", r"\(0, 2, 2\)"]),
    "fractions": ({"experts": np.zeros((6, 2, 2))}, ["'experts'", "float64, expected whole numbers"]),
    "all negative": ({"experts": np.full((6, 2, 2), -1)}, ["no token has an expert"]),
    "expert twice": ({"experts": np.ones((6, 2, 2), int)}, ["'experts', row 0", "layer 1: expert 1 appears twice"]),
    "offsets too short": ({"offsets": [0, 4, 5]}, ["'offsets'", r"from 0 to the number of tokens \(6\)"]),
    "offsets without 0": ({"offsets": [4, 6]}, ["'offsets'", "from 0"]),
    "falling offsets": ({"offsets": [0, 5, 4, 6]}, ["'offsets'", "rise"]),
    "prompt_lengths": ({"prompt_lengths": [2]}, ["'prompt_lengths'", r"\(1,\), expected \(2,\)"]),
    "long prompt": ({"prompt_lengths": [2, 3]}, ["'prompt_lengths', row 1", "3 tokens of prompt .* of 2"]),
    "both": ({"phase": [1] * 6}, ["'prompt_lengths'", "'phase' says the same"]),
    "positions": ({"positions": [0, 1, 2, -3, 0, 1]}, ["'positions', row 3", "-3"]),
    "weights": ({"weights": np.zeros((6, 2, 3))}, ["'weights'", r"\(6, 2, 3\), expected \(6, 2, 2\)"]),
    "layer twice": ({"layer_numbers": [1, 1]}, ["'layer_numbers'", "twice"]),
    "layer count": ({"layer_numbers": [1]}, ["'layer_numbers'", r"\(1,\), expected \(2,\)"]),
    "falling step": ({"step": [0, 0, 1, 3, 2, 4]}, ["row 4, column 'step'", "2 comes after 3"]),
    "too few experts": ({"n_experts": 4}, ["'experts', row 0", "layer 1: expert 5 is not below the model's 4"]),
    "no experts": ({"n_experts": 0}, ["'n_experts'", "0 is not possible"]),
    "size of zero": ({"expert_bytes": [100, 0]}, ["'expert_bytes'", "size of 0"]),
    "sizes": ({"expert_bytes": [1, 2, 3]}, ["'expert_bytes'", r"\(3,\), expected \(\) or \(2,\)"]),
    "name": ({"name": 7}, ["'name'", "expected text"]),
    "meta": ({"meta": '[{"first_token_index": 1}]'}, ["'meta'", "expected 2 objects"]),
    "objects": ({"mood": np.array([{}], object)}, ["cannot be read as npz", "numpy.savez"]),
}


@pytest.mark.parametrize("case", MALFORMED_NPZ)
def test_malformed_npz(tmp_path, case):
    given, parts = MALFORMED_NPZ[case]
    refused(write_npz(tmp_path, **arrays() | given), *parts)


@pytest.mark.parametrize("word", [2, "decoding"])
def test_npz_with_other_phases(tmp_path, word):
    given = arrays()
    del given["prompt_lengths"]
    phase = np.array([word] * 6)
    refused(write_npz(tmp_path, **given, phase=phase), "'phase', row 0", f"'{word}', expected prefill or decode")


def test_npz_that_is_truncated_or_is_none(tmp_path):
    path = write_npz(tmp_path, **arrays())
    path.write_bytes(path.read_bytes()[:-30])
    refused(path, "damaged or truncated archive")
    np.savez_compressed(path, experts=np.arange(6000).reshape(1000, 2, 3))
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    refused(path, "cannot be read")
    refused(write_csv(tmp_path, LONG, long_csv()), "not an npz archive", format="npz")
    refused(write_npz(tmp_path, ids=[1]), "'experts' is missing", format="npz")


@needs_traces
@pytest.mark.once
def test_real_fingerprints_of_gpt_oss(tmp_path):
    path = SHARED / "gpt-oss-20b" / "gptoss20b_decode_subset.npz"
    trace = import_trace(path, name="gpt-oss-20b")
    with np.load(path) as given:
        experts, offsets, meta = given["experts"], given["offsets"], json.loads(str(given["meta"]))
    assert (trace.tokens, trace.requests, trace.moe_layers) == (67_653, 206, 24)
    assert (trace.model.experts, trace.model.top_k) == ((32,) * 24, (4,) * 24)
    assert trace.position[offsets[:-1]].tolist() == [one["first_token_index"] for one in meta]
    assert np.array_equal(trace.step, np.arange(67_653))
    assert (trace.phase == 1).all()
    assert all(np.array_equal(trace.decisions(i).experts, experts[:, i]) for i in range(24))
    assert "42 of 206 requests are marked as repetition" in trace.notes
    assert_round_trip(trace, tmp_path)


def test_npz_in_zstd(tmp_path):
    path = tmp_path / "t.npz.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(write_npz(tmp_path, **arrays()).read_bytes())
    assert rows_of(import_trace(path)) == ROWS


def test_every_prompt_is_a_step(tmp_path):
    """Requests of a prompt only, and a request whose second prompt follows decode tokens."""
    ids = np.arange(12).reshape(6, 1, 2)
    path = write_npz(tmp_path, experts=ids, offsets=[0, 2, 6], phase=[0, 0, 0, 1, 0, 0])
    assert import_trace(path).step.tolist() == [0, 0, 1, 2, 3, 3]
