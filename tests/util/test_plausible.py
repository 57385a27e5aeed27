"""Bombs and absurd headers are refused in one sentence before memory is taken; each in a process that has little."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import remoe_sim
from remoe_sim.util.decompression import ALWAYS_BYTES, most_unpacked
from tests.support import bombs

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux counts it"),
]
ROOT = Path(__file__).resolve().parents[2]
MOST_MIB = 160  # what a file of 1 MiB may unpack to, in a few copies


@pytest.fixture(scope="module")
def outcomes():
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.bombed"], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", [*bombs.IMPORTED, *bombs.TRACES, *bombs.MODELS, *bombs.TYPED])
def test_a_bomb_is_refused_before_memory_is_taken(outcomes, what):
    outcome, taken = outcomes[what]
    assert outcome.startswith("refused: ")
    assert taken < MOST_MIB * 2**20


def test_there_are_no_others(outcomes):
    assert len(outcomes) == sum(map(len, (bombs.IMPORTED, bombs.TRACES, bombs.MODELS, bombs.TYPED)))


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: pa.compress(data, "zstd", asbytes=True)])
def test_what_packs_well_is_read(tmp_path, pack):
    """A plain recording of equal rows is far smaller when it is packed, and no bomb."""
    text = bombs.CSV + b"".join(b"0,%d,decode,0,%d\n" % (n, n % 7) for n in range(200_000))
    path = tmp_path / "t.csv"
    path.write_bytes(pack(text))
    assert len(text) < ALWAYS_BYTES
    assert remoe_sim.import_trace(path).tokens == 200_000
    assert most_unpacked(2**30) > 100 * 2**30
