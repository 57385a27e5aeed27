"""benchmarks/paper/predicted.py: traces in the shape of large models, and what does not fit is left out."""

import sys
from pathlib import Path

import pytest

import remoe_sim
from tests.support.data import DEMO

FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"


@pytest.fixture
def predicted(monkeypatch):
    """The scripts import one another by their plain names."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    import predicted

    monkeypatch.setattr(predicted, "TOKENS", 1200)
    yield predicted
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            sys.modules.pop(name)


@pytest.mark.heavy("matplotlib")  # takes long
def test_the_drawn_traces_have_what_was_measured_and_less_misses_take_less_time(predicted, monkeypatch):
    monkeypatch.setattr(predicted, "DEVICES", ("jetson-orin-nx-16gb", "t4"))
    monkeypatch.setattr(predicted, "SHARES", (None, 1.0))
    original = remoe_sim.read_trace(DEMO)
    pair = {"original": original, "remoe": remoe_sim.synth(original, reuse="1.26x")}
    rows = predicted.predict("qwen", pair, 0)
    fits = {(row["device"], row["quant"], row["cache"]) for row in rows}
    assert fits == {(device, quant, 4) for device in predicted.DEVICES for quant in predicted.QUANTS} | {
        (device, "q4_k_m", 60)
        for device in predicted.DEVICES  # in bf16 all experts take 24.6 GiB
    }
    for row in rows:
        for side in pair:
            assert row["drawn"][side]["reuse"] == pytest.approx(row["measured"][side]["reuse"], abs=0.01)
            assert row["drawn"][side]["cv"] == pytest.approx(row["measured"][side]["cv"], abs=0.05)
        assert row["measured"]["remoe"]["reuse"] == pytest.approx(1.26 * row["measured"]["original"]["reuse"], abs=0.01)
        small = row["cache"] == 4
        assert (row["tpot_ms"]["remoe"] < 0.9 * row["tpot_ms"]["original"]) == small
        assert row["change"] == pytest.approx(1 / row["speedup"] - 1)
    assert "| qwen1.5-moe-a2.7b | t4 | q4_k_m | 60 of 60 |" in predicted.markdown(rows)
