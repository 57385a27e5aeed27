"""benchmarks/paper/pair.py: its numbers are those of the commands, and of a slow jackknife."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import remoe_sim
from tests.support.data import DEMO

pytestmark = pytest.mark.heavy("scipy")
FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"
SCRIPTS = ("pair", "pair_figures", "expert_use", "drawing")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import expert_use
    import pair

    yield pair, expert_use
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for name, reuse in (("original", None), ("tuned", "1.26x")):
        trace = remoe_sim.synth(DEMO, reuse=reuse, seed=int(reuse is not None))
        remoe_sim.write_trace(trace, folder / f"{name}.parquet")
    return folder


def test_one_command_makes_all_figures(traces, tmp_path):
    paths = [traces / f"{name}.parquet" for name in ("original", "tuned")]
    command = [sys.executable, FOLDER / "pair.py", *paths, "-o", tmp_path, "--names", "base,remoe", "--cache", "8"]
    done = subprocess.run([*map(str, command), "--resamples", "199"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| unique hit rate | 4 | lru |" in done.stdout
    assert "| base | remoe |" in done.stdout
    figures = [
        f"{name}-{ground}.{kind}"
        for name in ("reuse-per-layer", "misses-against-capacity", "expert-balance")
        for ground in ("light", "dark")
        for kind in ("svg", "png")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*figures, "pair.csv", "pair.md", "layers.csv"])
    assert all((tmp_path / name).stat().st_size > 5000 for name in figures)
    table = pd.read_csv(tmp_path / "pair.csv").set_index(["metric", "policy", "capacity"])
    for side, path in zip(("original", "tuned"), paths, strict=True):
        report = remoe_sim.replay(path, cache=8, policy="belady", reset="request").results[0]
        assert table.loc[("hit_rate", "belady", 8), side] == pytest.approx(report.decode.hits / report.decode.lookups)
        missed = report.decode.lookups - report.decode.hits
        assert table.loc[("unique_misses", "belady", 8), side] == missed
        layers = remoe_sim.info(remoe_sim.read_trace(path)).to_dict()["layers"]
        for metric, name in (("routing_entropy", "routing_entropy_normalised"), ("load_balance_cv", "load_balance_cv")):
            mean = np.mean([layer[name] for layer in layers])
            assert table.xs(metric)[side].iloc[0] == pytest.approx(mean)
    assert table.xs("reuse_rate")["change"].iloc[0] == pytest.approx(0.26, abs=0.01)
    wrong = subprocess.run([*map(str, command), "--names", "one"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--names takes two names" in wrong.stderr


def test_pseudo_values_against_a_slow_jackknife(scripts):
    _, expert_use = scripts
    uses = np.random.default_rng(0).integers(0, 5, (6, 8))
    for name, whole in (("entropy", lambda u: -sum(p * np.log(p) for p in u / u.sum() if p) / np.log(8)),
                        ("balance", lambda u: np.std(u) / np.mean(u))):  # fmt: skip
        values = expert_use.pseudo_values(getattr(expert_use, name), uses)
        kept = np.array([whole(np.delete(uses, at, axis=0).sum(axis=0)) for at in range(6)])
        assert values.mean() == pytest.approx(whole(uses.sum(axis=0)))
        assert values - values.mean() == pytest.approx(5 * (kept.mean() - kept))


def test_a_trace_and_itself_do_not_differ(scripts):
    pair, _ = scripts
    trace = remoe_sim.read_trace(DEMO)
    found = pair.compare_pair(trace, trace, resamples=199)
    assert found.files == ()
    assert not found.table["difference_shown"].fillna(False).astype(bool).any()
    assert (found.table["difference"] == 0).all()
    assert (found.layers["difference"] == 0).all()


def test_shapes_that_are_rare(scripts):
    """One layer, k = 1, one expert; requests of which some have no decode token; other layers are no pair."""
    pair, _ = scripts
    a = remoe_sim.synth(tokens=300, layers=1, experts=8, top_k=1, request_tokens=50, prompt_tokens=10, reuse=0.3)
    b = remoe_sim.synth(tokens=300, layers=1, experts=8, top_k=1, request_tokens=50, prompt_tokens=10, reuse=0.5)
    found = pair.compare_pair(a, b, resamples=199)
    assert found.table["capacity"].dropna().unique().tolist() == [1, 2, 4, 6]
    some = replace(a, phase=np.where(a.request == 2, 0, a.phase).astype(np.uint8))
    some = pair.compare_pair(some, b, resamples=199)
    assert not some.comparison.paired
    lone = remoe_sim.synth(tokens=60, layers=1, experts=1, top_k=1, request_tokens=20, prompt_tokens=5, reuse=1)
    alone = pair.compare_pair(lone, lone, resamples=199)
    assert np.isnan(alone.table.set_index("metric").loc["routing_entropy", "original"])  # over ln 1
    with pytest.raises(ValueError, match="two traces of one architecture"):
        pair.compare_pair(a, remoe_sim.synth(tokens=60, layers=2, experts=8, top_k=1), resamples=199)
