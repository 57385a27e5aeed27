"""Exported files: what our importers read back, and what libCacheSim makes of them."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from remoe_sim.traces import plain_csv, plain_npz
from remoe_sim.traces.oracle_general import ACCESS

import remoe_sim
from remoe_sim import Decisions, InMemory, cli
from tests.oracle.naive import events
from tests.support.data import DEMO
from tests.support.imported import rows_of
from tests.support.strategies import cases, examples


@pytest.fixture(scope="module")
def demo():
    return remoe_sim.read_trace(DEMO)


def with_holes(trace):
    """Some slots and decisions missing, gate weights, and token ids."""
    rng = np.random.default_rng(1)
    layers, weights = [], []
    for _, decisions in trace.layers():
        routed = rng.random(trace.tokens) < 0.8
        valid = (rng.random(decisions.experts.shape) < 0.9) & routed[:, None]
        valid[:, 0] |= routed
        layers.append(Decisions(np.where(valid, decisions.experts, 0).astype(np.uint16), valid, routed))
        falling = -np.sort(-rng.random(valid.shape), axis=1)
        weights.append(np.where(valid, falling, 0).astype(np.float32))
    tokens = rng.integers(0, 1000, trace.tokens).astype(np.int32)
    return replace(trace, source=InMemory(layers, weights), token_id=tokens)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
@pytest.mark.parametrize("holes", [False, True])
def test_what_was_exported_is_imported_again(demo, tmp_path, suffix, holes):
    trace = with_holes(demo) if holes else demo
    path = tmp_path / f"t.{suffix}"
    assert remoe_sim.export(trace, path).name == suffix
    again = remoe_sim.import_trace(path, experts=32)
    assert rows_of(again) == rows_of(trace)
    assert again.layer_numbers == trace.layer_numbers
    if holes:
        assert (again.token_id == trace.token_id).all()
        for index, (_, decisions) in enumerate(trace.layers()):
            ours, theirs = again.source.weights(index), trace.source.weights(index)
            assert ours[decisions.valid] == pytest.approx(theirs[decisions.valid], rel=1e-6)
    if suffix == "npz":
        assert again.model == trace.model


def test_a_file_in_parts_is_the_same(demo, tmp_path, monkeypatch):
    for name, module in (("t.csv", plain_csv), ("t.npz", plain_npz)):
        monkeypatch.setattr(module, "block_rows", lambda row_bytes: 100)
        remoe_sim.export(demo, tmp_path / name)
        assert rows_of(remoe_sim.import_trace(tmp_path / name, experts=32)) == rows_of(demo)


def test_interleaved_requests_and_layers_that_differ(demo, tmp_path):
    together = remoe_sim.batch(demo, 3)
    with pytest.raises(remoe_sim.TraceError, match="its requests interleave"):
        remoe_sim.export(together, tmp_path / "t.npz")
    remoe_sim.export(together, tmp_path / "t.csv")
    again = remoe_sim.import_trace(tmp_path / "t.csv", experts=32)
    for settings in ({"cache": 8}, {"cache": 50, "scope": "global"}):
        theirs, ours = (remoe_sim.replay(t, policy="lru", **settings)["lru"] for t in (together, again))
        assert (ours.lookups, ours.misses) == (theirs.lookups, theirs.misses)
    uneven = replace(demo, model=replace(demo.model, experts=(33, *demo.model.experts[1:])))
    with pytest.raises(remoe_sim.TraceError, match="different numbers of experts"):
        remoe_sim.export(uneven, tmp_path / "t.npz")
    assert not (tmp_path / "t.npz").exists()


def test_layers_with_fewer_slots(tmp_path):
    column = np.arange(3, dtype=np.int32)
    layers = [Decisions(np.array([[0, 1], [2, 3], [1, 0]], np.uint16)), Decisions(np.array([[4], [0], [2]], np.uint16))]
    trace = remoe_sim.Trace(
        column * 0, column, column, np.ones(3, np.uint8), (3, 7), remoe_sim.Model((5, 5), (2, 1)), InMemory(layers)
    )
    for name in ("t.csv", "t.npz"):
        remoe_sim.export(trace, tmp_path / name)
        again = remoe_sim.import_trace(tmp_path / name, experts=5)
        assert rows_of(again) == rows_of(trace)
        assert again.model.top_k == (2, 1)


@examples(80)
@given(case=cases(preload=False, large=False))
def test_accesses_of_oracle_general(case, tmp_path_factory):
    path = tmp_path_factory.mktemp("oracle") / "t.oracleGeneral"
    remoe_sim.export(case.trace, path)
    records = np.fromfile(path, ACCESS)
    expected = events(case.rows, order="sequential")
    bases = np.append(0, np.cumsum(case.shape.experts))
    wanted = [event.entries[0] for event in expected]
    assert records["obj_id"].tolist() == [bases[layer] + expert for layer, expert in wanted]
    sizes = case.shape.sizes or [1] * len(case.shape.top_k)
    assert records["obj_size"].tolist() == [sizes[layer] for layer, _ in wanted]
    after = [wanted[at + 1 :].index(one) + at + 1 if one in wanted[at + 1 :] else -1 for at, one in enumerate(wanted)]
    assert records["next_access_vtime"].tolist() == after
    assert (np.diff(records["timestamp"].astype(np.int64)) >= 0).all()


@pytest.mark.parametrize("layer", [None, 3])
def test_libcachesim_misses_as_often(demo, tmp_path, layer):
    libcachesim = pytest.importorskip("libcachesim")
    path = tmp_path / "t.oracleGeneral"
    remoe_sim.export(demo, path, layer=layer)
    trace = remoe_sim.formats.format._one_layer(demo, 3) if layer else demo
    accesses = np.fromfile(path, ACCESS).size
    policies = {"lru": "LRU", "fifo": "FIFO", "belady": "Belady"}
    for cache in (3, 8, 20):
        options = libcachesim.ReaderInitParam(ignore_obj_size=True)
        report = remoe_sim.replay(trace, cache=cache, scope="global", order="sequential", policy=list(policies))
        for policy, theirs in policies.items():
            reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE, options)
            ratio, _ = getattr(libcachesim, theirs)(cache).process_trace(reader)
            assert round(ratio * accesses) == report[policy].misses


def test_one_layer_alone(demo, tmp_path):
    remoe_sim.export(demo, tmp_path / "t.npz", layer="3")
    again = remoe_sim.import_trace(tmp_path / "t.npz")
    assert again.layer_numbers == (3,)
    assert again.model.expert_bytes == demo.model.expert_bytes[2:3]
    assert (again.decisions(0).experts == demo.decisions(2).experts).all()


def test_what_is_not_possible(demo, tmp_path):
    with pytest.raises(ValueError, match=r"no suffix of a format \(.csv, .npz, .oracleGeneral\)"):
        remoe_sim.export(demo, tmp_path / "t.bin")
    with pytest.raises(ValueError, match="unknown export format 'xml'"):
        remoe_sim.export(demo, tmp_path / "t.bin", format="xml")
    with pytest.raises(remoe_sim.TraceError, match="no MoE layer 0; its layers are 1, 2"):
        remoe_sim.export(demo, tmp_path / "t.csv", layer=0)
    with pytest.raises(remoe_sim.TraceError, match="above the 4294967295"):
        remoe_sim.export(demo.with_sizes(2**33), tmp_path / "t.oracleGeneral")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path):
    path = tmp_path / "t.bin"
    done = CliRunner().invoke(cli.main, ["export", DEMO, "-o", str(path), "--format", "oracle-general"])
    assert done.exit_code == 0, done.exception
    assert path.stat().st_size == 24 * 1490 * 12 * 4
    assert f"wrote {path}: oracle-general, 1,716,480 bytes" in done.output
    assert "oracle-general (.oracleGeneral)" in CliRunner().invoke(cli.main, ["export", "--help"]).output
