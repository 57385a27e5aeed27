"""The bundled traces, and what their card says of them."""

import re
from pathlib import Path

import numpy as np
import pytest

import remoe_sim
from remoe_sim.trace import DECODE, PREFILL

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

FOLDER = Path(__file__).resolve().parents[2] / "traces" / "samples"
CARD = (FOLDER / "README.md").read_text()
ROW = re.compile(r"^\| `([\w-]+)\.parquet` \| (\d+) \| ([\d,]+) \| ([\d.]+) % \| (\d+) \|$", re.MULTILINE)
ROWS = {name: tuple(values) for name, *values in ROW.findall(CARD)}
ARCHITECTURES = ("deepseek", "qwen")
NAMES = [f"{architecture}-{side}" for architecture in ARCHITECTURES for side in ("original", "remoe")]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_is_in_the_file(name):
    trace, path = remoe_sim.read_trace(f"sample:{name}"), FOLDER / f"{name}.parquet"
    reuse = 100 * remoe_sim.reuse(trace).reuse_rate.iloc[-1]
    shown = (str(trace.requests), f"{trace.tokens:,}", f"{reuse:.2f}", f"{path.stat().st_size / 1024:.0f}")
    assert ROWS[name] == shown
    assert trace.requests >= 200
    assert trace.model.name.endswith(name.partition("-")[2])
    assert f"{trace.model.expert_bytes[0]:,} bytes" in CARD
    assert (trace.model.experts, trace.model.top_k) == ((32,) * 4, (4,) * 4)
    assert (trace.token_id, trace.source.weights(0), trace.source.probs(0)) == (None, None, None)


def test_all_of_them_have_a_card_and_take_little_room():
    files = list(FOLDER.glob("*.parquet"))
    assert {path.stem for path in files} == set(ROWS) == set(NAMES)
    assert sum((FOLDER / f"{name}.parquet").stat().st_size for name in NAMES) < 2 * 2**20


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pair_read_the_same_text_and_the_tuned_model_reuses_more(architecture):
    original, tuned = (remoe_sim.read_trace(f"sample:{architecture}-{side}") for side in ("original", "remoe"))
    for name in ("request", "position", "step", "phase"):
        np.testing.assert_array_equal(getattr(original, name), getattr(tuned, name))
    prompts = np.bincount(original.request[original.phase == PREFILL])
    assert set(prompts.tolist()) == {64}
    assert (original.position[original.phase == DECODE] >= 64).all()
    rates = [remoe_sim.reuse(trace).reuse_rate.iloc[-1] for trace in (original, tuned)]
    assert rates[1] > 1.2 * rates[0]
