"""Measuring this machine: a card that loads, nothing left behind, and sentences where it cannot be done."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim import Link, cli
from remoe_sim.devices import probes
from remoe_sim.devices.measure import fit_link
from remoe_sim.devices.probes import DEPTHS, SIZES, ReadSpeed
from remoe_sim.kernels.statistics import triad

MIB = 2**20
SMALL = "32MiB"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return remoe_sim.measure(tmp_path_factory.mktemp("scratch"), scratch_bytes=SMALL, quick=True, name="mine")


def test_every_size_and_depth_is_measured(measured):
    assert [(one.bytes, one.lanes) for one in measured.storage.reads] == [(s, n) for s in SIZES for n in DEPTHS]
    assert all(one.bytes_per_s > 1e5 for one in measured.storage.reads)
    frame = measured.to_frame()
    assert list(frame.columns) == ["link", "bytes", "lanes", "bytes_per_s", "error"]
    storage = measured.device.storage
    for row in frame[frame.link == "storage"].itertuples():
        assert storage.throughput(row.bytes, row.lanes) / row.bytes_per_s - 1 == pytest.approx(row.error, abs=0.01)
    assert "128" in measured._repr_html_() or "131072" in measured._repr_html_()


def test_memory_is_what_the_card_says(measured):
    device, memory = measured.device, measured.memory
    assert memory.threads >= 1
    if device.unified and measured.cuda is None:
        assert device.bandwidth_bytes_per_s == pytest.approx(memory.best, rel=1e-3)
        reached = device.bandwidth_bytes_per_s * device.efficiency
        assert reached == pytest.approx(memory.matrix_vector, rel=2e-3)
        assert device.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_measured_beyond_the_caches_and_until_runs_agree(measured):
    """A quick run too: an array that a cache holds tells the speed of the cache."""
    memory = measured.memory
    assert memory.cache_bytes == probes.cache_bytes() > 0
    assert memory.array_bytes >= min(4 * memory.cache_bytes, probes.memory_bytes() // 16 - 2**20)
    assert memory.array_bytes % 8192 == 0
    assert memory.agreed == (not any("differ" in note for note in measured.notes))


def test_runs_are_repeated_until_two_agree():
    seconds = [9.0, 5.0, 4.0, 3.0, 2.95, 1.0]  # the first does not count
    assert probes.settled(iter(seconds).__next__, 5) == (2.95, True)
    assert probes.settled(iter(seconds).__next__, 3) == (3.0, False)
    assert probes.settled(iter([1.0, 2.0, 2.01]).__next__, 2) == (2.0, True)


def test_a_busy_machine_is_said(monkeypatch):
    cores = probes.cores()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.7 * cores + 0.5, 0.0, 0.0))
    assert "busy" in probes.busy()
    assert "measure again when it is idle" in probes.busy()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.02, 5.0, 5.0))
    assert probes.busy() is None


def test_the_example_of_help_is_no_quick_run():
    shown = CliRunner().invoke(cli.main, ["measure", "--help"]).stdout
    assert "--quick" not in shown.partition("Examples:")[2].partition("Options:")[0]


def test_a_quick_run_is_no_measurement_to_rely_on(measured):
    assert measured.device.facts["bandwidth_bytes_per_s"].status == "unverified"
    assert any("bandwidth_bytes_per_s" in sentence for sentence in measured.device.unverified)
    assert "measured quickly on 20" in measured.device.facts["efficiency"].source


def test_the_card_that_the_command_writes_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["measure", "-o", "mine.toml", "--quick", "--scratch-bytes", SMALL])
    assert done.exit_code == 0, done.exception
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]
    device = remoe_sim.device("mine.toml")
    assert device.name == "mine"
    assert device.storage.block_bytes == 4096
    assert device.storage.lanes in DEPTHS
    assert "wrote mine.toml" in done.stderr
    for size in SIZES:
        assert f"{size // 1024:,} KiB" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "layer_s 3e-05" in done.stderr


def test_json(tmp_path):
    arguments = ["measure", "--scratch", str(tmp_path), "--quick", "--scratch-bytes", SMALL, "--json"]
    answer = json.loads(CliRunner().invoke(cli.main, arguments).stdout)
    assert answer["schema"] == "remoe-sim.measure.v1"
    assert {"link", "bytes", "lanes", "bytes_per_s", "error"} == set(answer["reads"][0])
    assert answer["device"]["storage"]["lanes"] in DEPTHS


@pytest.mark.parametrize("moment", ["writing", "round 1", "round 3"])
def test_nothing_is_left_after_an_interrupt(moment, tmp_path):
    seen = []

    def progress(sentence):
        if moment in sentence:
            seen.extend(path.name for path in tmp_path.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remoe_sim.measure(tmp_path, scratch_bytes=SMALL, quick=True, progress=progress)
    assert len(seen) == (moment == "writing" or sys.platform == "win32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.once
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_nothing_is_left_after_control_c(tmp_path):
    command = Path(sys.executable).with_name("remoe-sim")
    run = subprocess.Popen(
        [command, "measure", "--scratch", tmp_path, "--scratch-bytes", "256MiB", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while run.poll() is None and not list(tmp_path.iterdir()):
        pass
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    assert "interrupted" in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(tmp_path):
    for arguments, message in (
        ({"scratch": tmp_path / "nowhere"}, "does not exist; give a folder"),
        ({"scratch": tmp_path, "scratch_bytes": "1MiB"}, "too small; give at least 25165824"),
        ({"scratch": tmp_path, "scratch_bytes": 2**60}, "does not fit"),
        ({"scratch": tmp_path, "scratch_bytes": "much"}, "is not a size"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            remoe_sim.measure(**arguments)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", ["", "n\n"])
def test_more_than_a_gibibyte_is_asked_for(answer, tmp_path):
    arguments = ["measure", "--scratch", str(tmp_path), "--scratch-bytes", "1025MiB"]
    done = CliRunner().invoke(cli.main, arguments, input=answer)
    assert done.exit_code == 2
    assert "nothing was written; pass --yes" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_card_in_no_folder_is_refused_before_measuring(tmp_path):
    done = CliRunner().invoke(cli.main, ["measure", "-o", str(tmp_path / "no" / "mine.toml")])
    assert done.exit_code == 2
    assert "does not exist" in done.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux has a file system that is never direct")
def test_a_file_system_without_direct_reads_is_said(tmp_path, monkeypatch):
    """Where the system itself has no direct reads, as some have not."""
    monkeypatch.delattr(os, "O_DIRECT")
    measured = remoe_sim.measure(tmp_path, scratch_bytes=SMALL, quick=True)
    assert not measured.storage.direct
    assert any("refuses direct reads" in note for note in measured.notes)
    assert measured.device.facts["storage.latency_s"].status == "unverified"


# --- the pieces


def test_the_flash_of_a_phone_is_fitted():
    """The seven rows that BigMoeOnEdge published."""
    rows = [(4, 1, 1810), (4, 2, 2460), (4, 4, 2458), (4, 8, 2420), (4, 32, 2255), (1 / 8, 2, 954), (1, 2, 2085)]
    link, errors = fit_link("storage", [ReadSpeed(int(s * MIB), n, v * MIB) for s, n, v in rows], 4096)
    assert max(map(abs, errors)) < 0.09
    assert link.throughput(4 * MIB, 2) == pytest.approx(2460 * MIB, rel=0.09)


@pytest.mark.parametrize(
    "link",
    [
        Link("storage", 1e-4, 2e9, 4, 8e8, 4096, 2e-5),
        Link("storage", 6e-5, 7e9, 4, None, 4096),
        Link("storage", 6e-6, 25e9, 1, None, 1),
        Link("storage", 0, 1e9, 1, None, 1),
    ],
)
def test_a_link_is_found_again(link):
    reads = [ReadSpeed(size, lanes, link.throughput(size, lanes)) for size in SIZES for lanes in DEPTHS]
    found, errors = fit_link("storage", reads, link.block_bytes)
    assert max(map(abs, errors)) < 0.03
    assert found.bandwidth_bytes_per_s == pytest.approx(link.bandwidth_bytes_per_s, rel=0.05)
    assert found.lanes in DEPTHS


def test_a_link_needs_reads():
    with pytest.raises(ValueError, match="no reads were measured"):
        fit_link("storage", [], 1)


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), max_size=50), st.floats(-10, 10))
def test_triad(pairs, factor):
    b, c = (np.array([pair[k] for pair in pairs], np.float64) for k in (0, 1))
    a = np.empty_like(b)
    triad(a, b, c, factor)
    np.testing.assert_allclose(
        a, [one + factor * other for one, other in zip(b, c, strict=True)], rtol=1e-12, atol=1e-3
    )
