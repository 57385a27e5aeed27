"""FLAME-MoE's directories: read in blocks, and every malformed variant."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import remoe_sim.trace.sources
from remoe_sim import import_trace, read_trace, write_trace
from tests.support.foreign_files import FIRST, flame_moe, rows
from tests.support.imported import refused, rows_of


def test_token_ids_and_scores(tmp_path):
    trace = import_trace(flame_moe(tmp_path))
    assert trace.token_id.tolist() == [7, 8, 9, 10, 11]
    assert trace.source.weights(1).tolist() == [[0.75, 0.25]] * 5
    assert rows_of(import_trace(tmp_path / "flame" / "actives" / "iter_0010")) == rows(FIRST)


def test_without_samples_or_with_others(tmp_path):
    assert import_trace(flame_moe(tmp_path, samples=False)).token_id is None
    path = flame_moe(tmp_path)
    (path / "samples" / "001.parquet").unlink()
    trace = import_trace(path)
    assert trace.token_id is None
    assert "the samples have 3 rows for 5 tokens" in trace.notes
    (path / "samples" / "001.parquet").write_bytes(b"PAR1")
    refused(path, "samples beside it cannot be read")


def many(folder, tokens=1000, row_group=130):
    """Random layers in small row groups; the scores of a token are its ids, so not in falling order."""
    rng = np.random.default_rng(5)
    ids = np.argsort(rng.random((3, tokens, 16)), axis=2)[:, :, :4].astype(np.int16)
    for layer, table in enumerate(ids):
        columns = {"indices": pa.array(list(table)), "scores": pa.array(list(table.astype(np.float16)))}
        pq.write_table(pa.table(columns), folder / f"layer_{layer:02d}.parquet", row_group_size=row_group + layer)
    return ids


@pytest.mark.parametrize("block", [8, 64, 512, 4096])
def test_blocks_of_any_size_give_the_same_file(tmp_path, monkeypatch, block):
    (tmp_path / "many").mkdir()
    ids = many(tmp_path / "many")
    monkeypatch.setattr(remoe_sim.trace.sources, "_LARGEST", block)
    monkeypatch.setattr(remoe_sim.trace.sources, "_SMALLEST", block)
    trace = import_trace(tmp_path / "many")
    write_trace(trace, tmp_path / "t.parquet")
    again = read_trace(tmp_path / "t.parquet")
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == -(-1000 // block)
    for layer in range(3):
        falling = -np.sort(-ids[layer], axis=1)
        assert np.array_equal(again.decisions(layer).experts, falling)
        assert np.array_equal(trace.decisions(layer).experts, falling)
        assert np.array_equal(again.source.weights(layer), falling.astype(np.float32))


def test_a_block_names_the_row_in_the_whole_trace(tmp_path, monkeypatch):
    (tmp_path / "many").mkdir()
    many(tmp_path / "many")
    wrong = pq.read_table(tmp_path / "many" / "layer_01.parquet").to_pydict()
    wrong["indices"][777] = [3, 3, 1, 2]
    table = pa.table({"indices": pa.array(wrong["indices"], pa.list_(pa.int16()))})
    pq.write_table(table, tmp_path / "many" / "layer_01.parquet")
    monkeypatch.setattr(remoe_sim.trace.sources, "_LARGEST", 64)
    monkeypatch.setattr(remoe_sim.trace.sources, "_SMALLEST", 64)
    trace = import_trace(tmp_path / "many")
    assert "gate weights left out" in trace.notes
    with pytest.raises(ValueError, match="row 777, column 'experts_01': expert 3 appears twice"):
        write_trace(trace, tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def column(values, kind=None):
    return {"layer_1": {"indices": pa.array(values, pa.list_(kind or pa.int16()))}}


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        (column([[1, 2]] * 4 + [[1]]), "layer_03.parquet, rows from 0 on, column 'indices': row 4: the list has 1"),
        (column([[1, 2]] * 4 + [[1, -2]]), "row 4: -2 is outside 0 to 65535"),
        (column([[1, 2]] * 4 + [None]), "is null"),
        (column([[1.0, 2.0]] * 5, pa.float32()), "expected uint16"),
        ({"layer_1": {"indices": pa.array([1, 2, 3, 4, 5])}}, "not lists"),
        ({"layer_0": {"indices": pa.array([[]] * 5, pa.list_(pa.int16()))}}, "the first row of 'indices' is empty"),
    ],
)
def test_malformed_layers(tmp_path, changed, part):
    path = flame_moe(tmp_path, **changed)
    with pytest.raises(ValueError, match=part):
        write_trace(import_trace(path, experts=8), tmp_path / "t.parquet")


def test_directories_that_are_not_whole(tmp_path):
    path = flame_moe(tmp_path)
    place = path / "actives" / "iter_0010"
    short = pq.read_table(place / "layer_03.parquet").slice(0, 3)
    pq.write_table(short, place / "layer_03.parquet")
    refused(path, "layer_03.parquet has 3 rows, layer_02.parquet has 5")
    (place / "layer_03.parquet").write_bytes((place / "layer_02.parquet").read_bytes()[:-9])
    refused(path, "layer_03.parquet cannot be read")
    pq.write_table(pa.table({"experts": [1]}), place / "layer_03.parquet")
    refused(path, "layer_03.parquet: column 'indices' is missing")
    (path / "actives" / "iter_0020").mkdir()
    (path / "actives" / "iter_0020" / "layer_02.parquet").touch()
    refused(path, r"several directories hold layer_NN.parquet \(actives.iter_0010, actives.iter_0020\)")
    refused(path / "samples", "none of the known formats")
    refused(path / "samples", "no layer_NN.parquet", format="flame-moe")
    refused(path / "samples" / "000.parquet", "this is a file", format="flame-moe")
