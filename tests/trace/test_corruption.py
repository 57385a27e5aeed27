"""A damaged trace file is refused, or read as it was: hundreds of variants, and each way to get past."""

import json
import random
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

import remoe_sim
from remoe_sim import Decisions, InMemory, TraceError, import_trace, read_trace, write_trace
from remoe_sim.trace.schema import CHECK_KEY, KEY, checksum
from tests.support.corrupting import Reading, content, damaged, ranges, whole_trace, written
from tests.support.foreign_files import flame_moe

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(whole_trace(), tmp_path_factory.mktemp("whole") / "t.parquet")


def test_the_file_holds_what_was_written(tmp_path, whole):
    (tmp_path / "t.parquet").write_bytes(whole)
    assert content(read_trace(tmp_path / "t.parquet")) == content(whole_trace())
    spans = ranges(whole)
    parts = sorted(span for name, ones in spans.items() if name != "whole file" for span in ones)
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]  # every byte is of one class
    assert parts[-1][1] == len(whole)


@pytest.mark.parametrize("way", Reading.WAYS)
def test_no_damage_is_silent(tmp_path, whole, way):
    """A sample of benchmarks/corruption.py."""
    spans, reading = ranges(whole), Reading(whole, tmp_path)
    assert reading.outcome(whole, way) == "identical"
    outcomes = Counter()
    for number, name in enumerate([*spans] * 4):
        data, _ = damaged(whole, spans[name], random.Random(f"{way} {number}"))
        outcomes[reading.outcome(data, way)] += 1
    assert set(outcomes) == {"refused", "identical"}


def changed(path, table=lambda one: one, stored=lambda one: one):
    """The file with another table or other metadata."""
    write_trace(whole_trace(20), path)
    old = pq.read_table(path)
    pq.write_table(table(old).replace_schema_metadata(stored(dict(old.schema.metadata))), path)
    return path


def renamed(old, new):
    return lambda table: table.rename_columns([new if name == old else name for name in table.schema.names])


HIDDEN = {
    "weights under another name": {"table": renamed("weights_01", "weightz_01")},
    "a layer under another name": {"table": renamed("experts_05", "exports_05")},
    "a layer of another number": {"table": renamed("experts_05", "experts_06")},
    "no probabilities": {"table": lambda table: table.drop_columns(["probs_01"])},
    "no token ids": {"table": lambda table: table.drop_columns(["token_id"])},
    "weights of another layer": {"table": renamed("weights_01", "weights_05")},
    "a column more": {"table": lambda table: table.append_column("weights_05", table.column("weights_01"))},
    "no checksum": {"stored": lambda stored: {KEY: stored[KEY].replace(b"8x60", b"8x61")}},
    "a checksum of another name": {
        "stored": lambda stored: {KEY: stored[KEY].replace(b"3145728", b"3145729"), b"remoe_sim_chacksum": b""}
    },
    "other notes": {"stored": lambda stored: stored | {KEY: stored[KEY].replace(b"numbered", b"numbared")}},
}


@pytest.mark.parametrize("what", HIDDEN)
def test_what_lacks_its_hash_is_refused(tmp_path, what):
    path = changed(tmp_path / "t.parquet", **HIDDEN[what])
    with pytest.raises(TraceError, match="the file is damaged, write it again"):
        read_trace(path)


def without_hashes(stored):
    meta = json.loads(stored[KEY])
    del meta["content"]
    return {KEY: json.dumps(meta).encode()}


def test_a_file_without_any_hash_is_read(tmp_path):
    """Other programs write such files."""
    path = changed(tmp_path / "t.parquet", lambda table: table.drop_columns(["probs_01"]), without_hashes)
    trace = read_trace(path)
    assert trace.source.probs(0) is None
    assert trace.tokens == 20


def test_columns_that_are_none_of_a_trace_are_no_damage(tmp_path):
    more = lambda table: table.append_column("text", table.column("phase"))  # noqa: E731
    assert content(read_trace(changed(tmp_path / "t.parquet", more))) == content(whole_trace(20))


def test_a_column_of_other_length_is_refused(tmp_path):
    """Nothing else says how long a column of weights is, where it has no hash."""
    path, short = tmp_path / "t.parquet", tmp_path / "s.parquet"
    for one, rows in ((path, 20), (short, 16)):
        write_trace(whole_trace(rows), one)
    trace = read_trace(path)
    trace.source.weights.__self__.content = {}
    short.replace(path)
    trace.source.weights.__self__._footer = None
    with pytest.raises(TraceError, match="column 'weights_01' has not 20 rows"):
        trace.source.weights(0)


def test_metadata_with_a_right_checksum_that_hides_nothing(tmp_path):
    """Whoever changes the metadata and its checksum alike meant to."""
    said = lambda stored: stored[KEY].replace(b"8x60", b"8x61")  # noqa: E731
    path = changed(tmp_path / "t.parquet", stored=lambda one: one | {KEY: said(one), CHECK_KEY: checksum(said(one))})
    assert read_trace(path).model.name == "some/model-8x61"


def test_what_stands_where_nothing_is_routed_is_not_written(tmp_path):
    """Else the file would not match its own hashes."""
    trace = whole_trace(4)
    routed = np.array([True, False, True, False])
    layer = Decisions(np.array([[1, 2], [3, 4], [5, 6], [7, 7]], np.uint16), np.repeat(routed[:, None], 2, 1), routed)
    weights = np.arange(8, dtype=np.float32).reshape(4, 2)
    model = remoe_sim.Model((8,), (2,))
    path = tmp_path / "t.parquet"
    write_trace(
        remoe_sim.Trace(
            trace.request, trace.position, trace.step, trace.phase, (0,), model, InMemory([layer], [weights])
        ),
        path,
    )
    back = read_trace(path)
    assert back.source.weights(0).tolist() == [[0, 1], [0, 0], [4, 5], [0, 0]]
    assert back.decisions(0).experts.tolist() == [[1, 2], [0, 0], [5, 6], [0, 0]]


def test_a_damaged_footer_of_a_recording_ends_no_process(tmp_path):
    """pyarrow does that, over some, when columns of a footer are asked for."""
    path = flame_moe(tmp_path)
    layer = path / "actives" / "iter_0010" / "layer_02.parquet"
    good, expected = layer.read_bytes(), import_trace(path)
    start = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    refused = 0
    for at in range(start, len(good) - 8):
        layer.write_bytes(good[:at] + bytes([good[at] ^ 0x15]) + good[at + 1 :])
        try:
            trace = import_trace(path, format="flame-moe")
            trace.decisions(0)
        except TraceError:
            refused += 1
        else:
            assert trace.tokens == expected.tokens
    assert refused > 20
