"""The scripts of benchmarks/paper, run small: what their numbers have to obey whatever the settings."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import remoe_sim

pytestmark = pytest.mark.heavy("numba")  # whole scripts, and surfaces of many timelines: left to make test-all
FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"
PUBLISHED_FALL = 1 - 0.8068 / 0.8707  # of the fetches, at 6 experts per layer


def run_script(name, *options):
    done = subprocess.run([sys.executable, FOLDER / name, *map(str, options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def modules(monkeypatch):
    """The scripts import one another by their plain names, as they do when one of them is run."""
    monkeypatch.syspath_prepend(FOLDER)
    import locality
    import surfaces

    yield locality, surfaces
    for name in ("locality", "surfaces", "published"):
        sys.modules.pop(name, None)


def test_vllm_row(tmp_path):
    said = run_script("vllm_row.py", "-o", tmp_path, "--points", 3)
    assert set(said) == {"published", "derived", "headline", "fits", "how_to_read", "notes", "figures"}
    assert all((tmp_path / name).stat().st_size > 5000 for name in said["figures"])
    derived = said["derived"]
    assert derived["fall_of_fetches"] == pytest.approx(PUBLISHED_FALL)
    assert derived["share_of_tpot_that_scales_with_fetches"] == pytest.approx(11.32 / 254.31 / PUBLISHED_FALL)
    falls = {"uhr": derived["fall_of_misses_by_unique_hit_rate"], "eor": derived["fall_of_misses_by_eor"]}
    for row in said["fits"]:
        if row["fit"] == "overhead":  # the baseline comes out exactly, because it was fitted
            assert row["model_ms"]["original"] + row["fitted"]["overhead_ms"] == pytest.approx(254.31)
        else:
            assert row["model_ms"]["original"] == pytest.approx(254.31, rel=1e-6)
        assert -falls[row["counting"]] - 1e-3 <= row["predicted_change"] < 0
        assert row["predicted_remoe_ms"] == pytest.approx(254.31 * (1 + row["predicted_change"]))
    # 7.3 % fewer fetches give the published −4.5 % on the card's link, with one number fitted to the baseline alone
    assert said["headline"]["predicted_change"] == pytest.approx(-0.0445, abs=0.005)


def test_jetson_inverse(tmp_path):
    said = run_script("jetson_inverse.py", "-o", tmp_path, "--tokens", 2048, "--layers", 2, "--grid", 5, 10)
    assert set(said) == {
        "published", "assumed", "needed", "traces", "largest_fall_of_misses", "at_6_experts_per_layer", "answers",
        "computing_ms", "largest_cache_that_fits", "notes", "figures",
    }  # fmt: skip
    assert all((tmp_path / name).stat().st_size > 5000 for name in said["figures"])
    for row in said["at_6_experts_per_layer"]:  # a TPOT falls no further than misses, and at k that explains nothing
        assert row["change_of_misses"] - 1e-3 <= row["largest_fall_of_tpot"] < 0
        assert row["largest_fall_of_tpot"] > -0.15
    for trace in said["traces"]:
        assert trace["reuse_rate"] == pytest.approx(said["published"]["eor"][trace["router"]], abs=0.002)
    needed = {row["dataset"]: row for row in said["needed"]}
    found = [(row, place) for row in said["answers"] for place in row["both_come_out"]]
    assert found
    for row, place in found:
        assert place["experts_per_layer"] > 12  # far above k
        fall = place["miss_rate_remoe"] / place["miss_rate_original"] - 1
        assert fall < needed[row["dataset"]]["change_of_tpot"] < -4 * PUBLISHED_FALL
    for row in said["answers"]:
        assert bool(row["both_come_out"]) != (row["closest"] is not None)


@pytest.mark.parametrize("reads", ["fault", "direct"])
def test_surfaces_are_monotone_and_close_to_the_estimates_between_their_points(modules, reads):
    _, surfaces = modules
    surface = surfaces.Surface.of("q4_k_m", reads, 5, 6)
    assert (np.diff(surface.tpot_ms, axis=0) < 1e-9).all()  # more hits
    assert (np.diff(surface.tpot_ms, axis=1) > -1e-9).all()  # a slower storage
    model, device = surfaces.settings("q4_k_m", reads)
    slow = surface.slowness[3]
    one = surfaces.replace(device, storage=surfaces.replace(device.storage, bandwidth_bytes_per_s=1 / slow))
    direct = remoe_sim.estimate(model, one, hit_rate=0.6, overlap="none")[0].tpot_ms
    assert surface.at_rate(0.6)[3] == pytest.approx(direct, rel=0.01)


def test_inverse_gives_back_what_made_the_times(modules):
    locality, surfaces = modules
    surface = surfaces.Surface.of("q8_0", "fault", 5, 30)
    misses = {
        which: locality.miss_rates(locality.trace_with(rate, lifetime, 1024, 1, 3)[0])
        for which, rate, lifetime in (("original", 0.273, 16), ("remoe", 0.345, locality.WHOLE_REQUEST))
    }
    capacity, column = 30, 14
    published = {name: surface.at_rate(1 - rates[capacity])[column] for name, rates in misses.items()}
    inverse = surfaces.Inverse.of(surface, misses, published, 6)
    at = capacity - 6
    assert inverse.slowness[at] == pytest.approx(surface.slowness[column])
    assert inverse.residual_ms[at] == pytest.approx(0, abs=1e-6)
    assert min(abs(capacity - found) for found, _ in inverse.crossings()) < 0.01


def test_drawn_traces_obey_the_law_of_k_experts(modules):
    """LRU hits at k experts per layer are the repetitions of the token before, where the cache has just that."""
    locality, _ = modules
    trace, _ = locality.trace_with(0.345, 16, 512, 2, 5)
    frame = remoe_sim.curve(trace, "lru", cache=6, reset="request").query("layer == 'all'")
    reuse = remoe_sim.info(trace).to_dict()["reuse"][0]
    assert int(frame["hits"].iloc[0]) == reuse["shared"]
    with pytest.raises(ValueError, match="no strength"):
        locality.trace_with(0.9, 1, 256, 1, 5)
