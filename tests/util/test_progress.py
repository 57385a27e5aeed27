"""How far a task is: what is told, and what is seen of it on a terminal."""

import os
import re
import select
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

import remoe_sim
import remoe_sim.trace.reader
from remoe_sim import import_trace, read_trace, synth, write_trace
from remoe_sim.util.progress import done, listening, stage
from remoe_sim.util.threads import map_layers

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

COMMAND = [sys.executable, "-c", "from remoe_sim.cli import run; run()"]


class Told:
    """What a listener was told: (what, total, how much was done) of each stage."""

    def __init__(self):
        self.stages = []

    def begin(self, what, total):
        self.stages.append([what, total, 0])

    def advance(self, amount, total=None):
        self.stages[-1][1] = total or self.stages[-1][1]
        self.stages[-1][2] += amount

    def end(self):
        self.stages[-1] = tuple(self.stages[-1])


def told(function, *arguments, **options):
    listener = Told()
    with listening(listener):
        function(*arguments, **options)
    return listener.stages


@pytest.fixture
def path(tmp_path):
    trace = synth(tokens=1000, layers=3, experts=16, top_k=2, request_tokens=1000, prompt_tokens=0)
    write_trace(trace, tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.mark.parametrize(("resident", "total"), [(2**28, 3), (0, 3000)])
def test_what_goes_through_layers_says_how_far_it_is(path, monkeypatch, resident, total):
    monkeypatch.setattr(remoe_sim.trace.reader, "RESIDENT_BYTES", resident)
    trace = read_trace(path)
    assert told(remoe_sim.info, trace) == [("measuring", total, total)]
    assert told(remoe_sim.curve, trace, "lru") == [("replaying", total, total)]
    twice = total if resident else 2 * total  # to know what comes later
    assert told(remoe_sim.curve, trace, "lru,belady") == [("replaying", twice, twice)]
    assert told(remoe_sim.replay, trace, 4, policy="lru") == [
        ("replaying", total, total),
        ("measuring reuse", total, total),
    ]


def test_writing_drawing_and_fitting(path, tmp_path):
    trace = read_trace(path)
    assert told(write_trace, trace, tmp_path / "again.parquet") == [("writing", 1000, 1000)]
    stages = told(synth, like=path, reuse="+0.05")
    assert [what for what, *_ in stages] == ["reading", "fitting", "tuning reuse", "drawing"]
    assert all(total == reached for _, total, reached in stages[2:])


@pytest.mark.parametrize("packed", [None, "gzip", "zstd"])
def test_a_recording_says_how_much_of_it_was_read(path, tmp_path, packed):
    remoe_sim.export(path, tmp_path / "t.csv")
    recording = tmp_path / "t.csv"
    if packed:
        recording = tmp_path / "t.csv.gz"
        with pa.output_stream(recording, compression=packed) as stream:
            stream.write((tmp_path / "t.csv").read_bytes())
    ((what, total, reached),) = told(import_trace, recording)
    assert (what, total) == ("reading t.csv", recording.stat().st_size)
    assert reached >= total


def test_a_sweep_counts_cells(path):
    def sweep():
        with stage("sweeping") as cells:
            remoe_sim.sweep(path, policy="lru,fifo", cache="2,4", progress=cells.reach)

    assert told(sweep) == [("sweeping", 4, 4)]


def test_stages_inside_a_stage_are_not_told():
    def both():
        with stage("outer", 2, "layers"), stage("inner", 7) as inner:
            inner.advance(7)
            list(map_layers(lambda index: index, 2))
            done(5, "rows")

    assert told(both) == [("outer", 2, 2)]
    both()  # nobody listens


def test_an_error_ends_its_stage():
    def failing():
        with stage("failing"):
            raise KeyError

    listener = Told()
    with listening(listener), pytest.raises(KeyError):
        failing()
    assert told(lambda: stage("next").__enter__() and None)[0][0] == "next"


def on_terminal(arguments, stop_at=None, limit=120):
    """Exit status and what a terminal got; the process is interrupted when `stop_at` is seen."""
    leader, follower = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    started = time.monotonic()
    with subprocess.Popen(COMMAND + arguments, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        seen = b""
        while time.monotonic() < started + limit:
            if not select.select([leader], [], [], 1)[0]:
                continue
            try:
                more = os.read(leader, 2**16)
            except OSError:  # what Linux says at the end
                break
            seen += more
            if not more:
                break
            if stop_at is not None and stop_at in seen:
                process.send_signal(signal.SIGINT)
                stop_at = None
    os.close(leader)
    return process.returncode, re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen.decode())


@pytest.mark.heavy("rich")
def test_a_terminal_shows_a_bar_and_an_interrupt_leaves_nothing(tmp_path):
    make = ["synth", "--tokens", "15e5", "--layers", "4", "-o", str(tmp_path / "t.parquet")]
    status, seen = on_terminal(make, stop_at=b"writing")
    assert status == 130
    assert seen.rstrip().endswith("remoe-sim: interrupted")
    assert "Traceback" not in seen
    assert list(tmp_path.iterdir()) == []
    status, seen = on_terminal(make)
    assert status == 0
    assert "writing" in seen
    assert "% 0:00:" in seen
    assert " left" in seen
    assert "wrote" in seen


@pytest.mark.heavy("rich")
def test_nothing_is_shown_in_a_pipe(tmp_path):
    make = ["synth", "--tokens", "1e6", "--layers", "2", "-o", str(tmp_path / "t.parquet")]
    done = subprocess.run(COMMAND + make, capture_output=True, text=True)
    assert done.returncode == 0
    assert "writing" not in done.stderr
    assert "\x1b" not in done.stderr
