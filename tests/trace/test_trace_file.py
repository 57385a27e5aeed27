"""The trace file: what is written comes back, and what cannot be right is refused in one sentence."""

import contextlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim import Decisions, InMemory, Model, Trace, TraceError, cli
from remoe_sim.trace import reader
from remoe_sim.trace.schema import CHECK_KEY, KEY
from tests.support.small import small
from tests.support.strategies import cases


def same(one, other):
    for name in ("request", "position", "step", "phase", "token_id"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b)
    assert one.model == other.model
    assert one.layer_numbers == other.layer_numbers
    for index in range(one.moe_layers):
        a, b = one.decisions(index), other.decisions(index)
        assert np.array_equal(a.experts, b.experts)
        all_there = np.ones(a.experts.shape, bool)
        assert np.array_equal(all_there if a.valid is None else a.valid, all_there if b.valid is None else b.valid)
        routed = np.ones(one.tokens, bool)
        assert np.array_equal(routed if a.routed is None else a.routed, routed if b.routed is None else b.routed)


@pytest.mark.parametrize("resident", [reader.RESIDENT_BYTES, -1])
def test_what_is_written_comes_back(tmp_path, monkeypatch, resident):
    monkeypatch.setattr(reader, "RESIDENT_BYTES", resident)
    trace = small()
    remoe_sim.write_trace(trace, tmp_path / "t.parquet")
    back = remoe_sim.read_trace(tmp_path / "t.parquet")
    same(trace, back)
    assert (back.origin, back.notes) == ({"format": "by hand"}, "made up")
    assert np.array_equal(back.source.weights(0), trace.source.weights(0), equal_nan=True)
    assert back.source.weights(1) is None
    assert back.source.probs(0) is None
    assert np.array_equal(back.source.probs(1), trace.source.probs(1))
    assert pq.read_schema(tmp_path / "t.parquet").names == [
        *("request", "position", "step", "phase", "token_id", "experts_03", "weights_03", "experts_120", "probs_120")
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


@given(case=cases(preload=False))
def test_any_trace_comes_back(case, tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "t.parquet"
    remoe_sim.write_trace(case.trace, path)
    same(case.trace, remoe_sim.read_trace(path))


def rewritten(path, change=None, meta=None, checked=False):
    """The file of `small` with its table or metadata changed, and without its hashes unless `checked`."""
    remoe_sim.write_trace(small(), path)
    table = pq.read_table(path)
    stored = dict(table.schema.metadata)
    described = json.loads(stored[KEY])
    if not checked:
        described.pop("content")
        described = meta(described) if meta else described
        stored[KEY] = json.dumps(described).encode()
        stored[CHECK_KEY] = xxhash.xxh3_128_hexdigest(stored[KEY]).encode()
    elif meta:
        stored[KEY] = json.dumps(meta(described)).encode()
    table = change(table) if change else table
    pq.write_table(table.replace_schema_metadata(stored), path)


def column(name, values):
    """Puts another column in the place of one."""
    return lambda table: table.set_column(table.schema.names.index(name), name, values)


def lists(values, kind=None):
    return pa.array(values, kind or pa.list_(pa.uint16()))


def of_model(**changes):
    return lambda meta: meta | {"model": meta["model"] | changes}


WRONG = {
    "column 'step' is missing": {"change": lambda table: table.drop_columns(["step"])},
    "there is no column experts_NN": {"change": lambda t: t.drop_columns(["experts_03", "experts_120"])},
    "row 2, column 'step': 0 comes after 1": {"change": column("step", pa.array([0, 1, 0], pa.int32()))},
    "row 1, column 'request': null": {"change": column("request", pa.array([0, None, 0], pa.int32()))},
    "column 'request' holds string, expected int32": {"change": column("request", pa.array(["a", "b", "c"]))},
    "column 'position': .* expected int32": {"change": column("position", pa.array([0, 1, 2**40]))},
    "row 1, column 'phase': 'draft', expected": {"change": column("phase", pa.array(["prefill", "draft", "decode"]))},
    "row 1, column 'phase': None, expected": {"change": column("phase", pa.array(["prefill", None, "decode"]))},
    "column 'phase' holds int64, expected text": {"change": column("phase", pa.array([0, 1, 1]))},
    "row 1, column 'experts_120': expert 2 is not below": {"change": column("experts_120", lists([[1], [2], [0]]))},
    "row 2, column 'experts_03': expert 9 appears twice": {
        "change": column("experts_03", lists([[1, 2], None, [9, 9]]))
    },
    "column 'experts_03': row 2: the list has 1 elements, expected 2": {
        "change": column("experts_03", lists([[1, 2], None, [9]]))
    },
    "column 'experts_120': row 0: the list has 2 elements, expected 1": {
        "change": column("experts_120", lists([[1, 0]] * 3, pa.list_(pa.uint16(), 2)))
    },
    "column 'experts_120': row 1: -4 is outside 0 to 65535": {
        "change": column("experts_120", lists([[1], [-4], [0]], pa.list_(pa.int64())))
    },
    "column 'experts_120': holds int64, not lists": {"change": column("experts_120", pa.array([1, 0, 1]))},
    "column 'experts_120': holds lists of double": {
        "change": column("experts_120", lists([[1.0]] * 3, pa.list_(pa.float64())))
    },
    "column 'experts_120' does not match its content hash": {
        "checked": True,
        "change": column("experts_120", lists([[1], [1], [1]])),
    },
    "column 'position' does not match its content hash": {
        "checked": True,
        "change": column("position", pa.array([0, 2, 0], pa.int32())),
    },
    "schema version 3 is unknown": {"meta": lambda meta: meta | {"schema_version": 3}},
    "schema version True is unknown": {"meta": lambda meta: meta | {"schema_version": True}},
    "schema version None is unknown": {"meta": lambda meta: {"model": meta["model"]}},
    "does not match its checksum": {"checked": True, "meta": lambda meta: meta | {"notes": "other"}},
    "its metadata has no 'model'": {"meta": lambda meta: {"schema_version": 1}},
    "metadata 'source' is 'me', expected dict": {"meta": lambda meta: meta | {"source": "me"}},
    "metadata model.experts is -1": {"meta": of_model(experts=-1)},
    "metadata model.layers is 'many'": {"meta": of_model(layers="many")},
    "model.experts and model.top_k must be known": {"meta": of_model(top_k=None)},
    "model.experts has 3 entries for 2 MoE layers": {"meta": of_model(experts=[1, 2, 3])},
    "model.top_k holds a value below 1": {"meta": of_model(top_k=0)},
    "model.experts is 65537; at most 65536": {"meta": of_model(experts=[65537, 2])},
    "model.expert_bytes holds a value below 1": {"meta": of_model(expert_bytes=0)},
    "model.expert_bytes holds a value above": {"meta": of_model(expert_bytes=2**50)},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_cannot_be_right_is_refused(sentence, tmp_path):
    path = tmp_path / "t.parquet"
    rewritten(path, **WRONG[sentence])
    with pytest.raises(TraceError, match=sentence) as refused:
        remoe_sim.read_trace(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_lists_of_any_length_type_and_integer_are_read(tmp_path):
    path = tmp_path / "t.parquet"
    rewritten(path, lambda t: column("experts_120", lists([[1], [0], [1]], pa.large_list(pa.int64())))(
        column("experts_03", lists([[0, 65535], None, [3, None]], pa.list_(pa.int32())))(t)
    ))  # fmt: skip
    same(small(), remoe_sim.read_trace(path))


def whole(path):
    remoe_sim.write_trace(small(), path)
    return path.read_bytes()


FILES = {
    "the file is empty": lambda path: path.write_bytes(b""),
    "not a readable Parquet file": lambda path: path.write_bytes(b"layer,expert\n1,2\n"),
    "not a readable Parquet file, perhaps truncated": lambda path: path.write_bytes(whole(path)[:-9]),
    "there is no such file": lambda path: None,
    "this is a directory": lambda path: path.mkdir(),
    "without the metadata key 'remoe_sim'": lambda path: pq.write_table(pa.table({"request": [1]}), path),
    "its metadata is not valid JSON": lambda path: pq.write_table(
        pa.table({"request": [1]}).replace_schema_metadata({KEY: b"{"}), path
    ),
}


@pytest.mark.parametrize("sentence", FILES)
def test_what_is_no_trace_file_is_refused(sentence, tmp_path):
    path = tmp_path / "t.parquet"
    FILES[sentence](path)
    with pytest.raises(TraceError, match=sentence):
        remoe_sim.read_trace(path)
    done = CliRunner().invoke(cli.main, ["replay", str(path), "--cache", "8"])
    assert isinstance(done.exception, TraceError)
    assert done.stdout == ""


def test_any_changed_byte_of_the_pages_is_noticed_or_harmless(tmp_path):
    path, broken = tmp_path / "t.parquet", tmp_path / "b.parquet"
    content, trace = bytearray(whole(path)), small()
    for at in range(4, len(content) - 8, 37):
        changed = content.copy()
        changed[at] ^= 0x55
        broken.write_bytes(changed)
        with contextlib.suppress(TraceError):
            same(trace, remoe_sim.read_trace(broken))


def test_a_place_that_cannot_be_written_stays_as_it_was(tmp_path):
    target = tmp_path / "there"
    target.mkdir()
    for path in (target, tmp_path / "no" / "t.parquet"):
        with pytest.raises(OSError):  # noqa: PT011
            remoe_sim.write_trace(small(), path)
    assert [one.name for one in tmp_path.rglob("*")] == ["there"]
    shutil.rmtree(target)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layer_numbers": ()}, "there is no MoE layer"),
        ({"layer_numbers": (5, 5)}, "layer numbers must ascend"),
        ({"step": np.zeros(2, np.int32)}, "column 'step' has 2 rows where 'request' has 3"),
        ({"source": InMemory([Decisions(np.zeros((3, 1), np.uint16))] * 2)}, r"'experts_03' has shape \(3, 1\)"),
    ],
)
def test_a_trace_that_disagrees_with_itself_is_refused(changes, sentence):
    with pytest.raises(TraceError, match=sentence):
        small(**changes).decisions(0)


def test_no_tokens_at_all(tmp_path):
    nothing = np.zeros(0, np.int32)
    trace = Trace(
        nothing, nothing, nothing, np.zeros(0, np.uint8), (0,), Model((4,), (2,)),
        InMemory([Decisions(np.zeros((0, 2), np.uint16))]),
    )  # fmt: skip
    remoe_sim.write_trace(trace, tmp_path / "t.parquet")
    report = remoe_sim.replay(tmp_path / "t.parquet", cache=1)
    assert [(one.lookups, one.hit_rate) for one in report] == [(0, None)] * 3


@given(st.integers(1, 5))
def test_sizes_that_the_user_gives_go_before_those_of_the_file(size):
    assert small().with_sizes(size).model.expert_bytes == (size, size)
    assert small().with_sizes([size, 2]).model.expert_bytes == (size, 2)
