"""Sweeps on a Dask cluster of worker processes: the rows of a local sweep, whatever dies meanwhile, or a sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import remoe_sim
from tests.support.sweeps import SAMPLE, three_runs
from tests.support.user_policies import FEWEST_HITS

pytestmark = pytest.mark.heavy("distributed")


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as made:
        yield made


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster, set_as_default=False) as made:
        made.wait_for_workers(2)
        yield made


@pytest.mark.parametrize(
    "given",
    [
        {"policy": "lru,lfu,belady,fifo,arc", "cache": "0:32:8", "budget": "10%,50%", "scope": "layer,global"},
        {"policy": "lru,fifo", "cache": "4:32:4", "batch": "trace,3", "device": "rtx-4090,oneplus-15r"},
        {"policy": "static,lru", "cache": "8", "admission": "bypass", "train": SAMPLE, "reset": "request"},
        {"policy": "lfu-aged:half_life=64", "phase": "decode", "warmup": 20, "expert_bytes": "3MiB"},
    ],
)
def test_rows_are_those_of_a_local_sweep(given, client):
    seen = []
    rows = remoe_sim.sweep(SAMPLE, client=client, progress=lambda *now: seen.append(now), **given)
    pd.testing.assert_frame_equal(rows, remoe_sim.sweep(SAMPLE, **given), check_exact=True)
    assert seen == [(done, len(rows)) for done in range(len(rows) + 1)]


def test_traces_of_one_name_keep_their_rows(client, tmp_path, monkeypatch):
    assert len(pd.read_parquet(three_runs(tmp_path, monkeypatch, client))) == 12


def test_layers_are_units_of_their_own(client, monkeypatch):
    from remoe_sim.studies.sweep import cluster as cluster_module

    monkeypatch.setattr(cluster_module, "CUT", cluster_module.Cut(slots=1, limits=1, timed=1))
    given = {"policy": "lru,belady,fifo", "cache": "8,16", "scope": "layer,global"}
    frame = remoe_sim.sweep(SAMPLE, client=client, **given)
    pd.testing.assert_frame_equal(frame, remoe_sim.sweep(SAMPLE, **given), check_exact=True)


def test_a_killed_worker_costs_time_only(client, tmp_path):
    mine, killed = tmp_path / "mine.py", []
    mine.write_text(FEWEST_HITS)
    given = {"policy": [str(mine), "lru", "sieve"], "cache": "4:32:4"}

    def kill(done, total):
        if done == 2:  # of 8 cells that the slow policy has, so that workers are busy with it
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    frame = remoe_sim.sweep(SAMPLE, client=client, output=tmp_path / "s.parquet", progress=kill, **given)
    assert killed
    pd.testing.assert_frame_equal(frame, remoe_sim.sweep(SAMPLE, **given), check_exact=True)
    assert len(pd.read_parquet(tmp_path / "s.parquet")) == 24
    client.wait_for_workers(2)
    assert killed[0] not in client.run(os.getpid).values()


@pytest.mark.parametrize("first_here", [True, False])
def test_what_is_begun_here_is_finished_there(first_here, client, tmp_path):
    class StopError(Exception):
        pass

    def stop(done, total):
        if done == 5:
            raise StopError

    path, seen = tmp_path / "s.parquet", []
    given = {"policy": "lru,fifo,belady", "cache": "4:32:4", "output": path}
    one, two = (None, client) if first_here else (client, None)
    with pytest.raises(StopError):
        remoe_sim.sweep(SAMPLE, client=one, progress=stop, **given)
    frame = remoe_sim.sweep(SAMPLE, client=two, progress=lambda *now: seen.append(now), **given)
    assert seen[0] == (5, 24)
    assert len(seen) == 20
    pd.testing.assert_frame_equal(frame, remoe_sim.sweep(SAMPLE, "lru,fifo,belady", "4:32:4"), check_exact=True)


# --- what cannot succeed


def test_what_a_worker_does_not_see_is_refused_by_its_name(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = remoe_sim.read_trace(SAMPLE)
    remoe_sim.write_trace(demo.with_sizes(5), "seen.parquet")
    remoe_sim.write_trace(demo.with_sizes(6), "other.parquet")

    def remove(done, total):
        Path("seen.parquet").rename("gone.parquet")

    def replace(done, total):
        shutil.copy("other.parquet", "seen.parquet")

    with pytest.raises(ValueError, match=rf"worker tcp://\S+ says: {tmp_path}/seen.parquet: there is no such file"):
        remoe_sim.sweep("seen.parquet", "lru", 8, client=client, progress=remove)
    Path("gone.parquet").rename("seen.parquet")
    with pytest.raises(ValueError, match=r"worker tcp://\S+ says: .*seen.parquet: this is another file than the one"):
        remoe_sim.sweep("seen.parquet", "lru", 8, client=client, progress=replace)
    frame = remoe_sim.sweep("other.parquet", "lru", 8, client=client)  # the path is relative to here, not to a worker
    assert frame["trace"].tolist() == ["other.parquet"]


def test_a_policy_that_fails_fails_as_it_does_here_and_keeps_what_is_done(client, tmp_path):
    mine, path = tmp_path / "mine.py", tmp_path / "s.parquet"
    mine.write_text(FEWEST_HITS.replace("worst = min(", "1 / 0; worst = min("))
    remoe_sim.sweep(SAMPLE, "lru", "4,8", output=path)
    with pytest.raises(ZeroDivisionError):
        remoe_sim.sweep(SAMPLE, ["lru", str(mine)], "4,8", output=path, client=client)
    assert pd.read_parquet(path)["policy"].tolist() == ["lru", "lru"]
    mine.write_text(FEWEST_HITS.replace("return worst", "return 10_000"))
    with pytest.raises(ValueError, match=r"worker tcp://\S+ says: policy 'fewest-hits' chose a victim that is not"):
        remoe_sim.sweep(SAMPLE, str(mine), "4,8", client=client)


def test_what_kills_every_worker_is_given_up(client, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(FEWEST_HITS.replace("self.hits = {}", "import os; os._exit(1)"))
    with pytest.raises(
        ValueError, match=r"workers died \d times at a unit of '[^']*demo.parquet' \(12 of 12 layers\); give"
    ):
        remoe_sim.sweep(SAMPLE, str(mine), 8, client=client)


def test_arguments_that_are_no_cluster(client):
    with pytest.raises(ValueError, match=r"workers cannot see a trace in memory; write it with remoe_sim.write_trace"):
        remoe_sim.sweep(remoe_sim.read_trace(SAMPLE), client=client)
    with pytest.raises(ValueError, match=r"client is a int; give a distributed.Client, or the address of a scheduler"):
        remoe_sim.sweep(SAMPLE, client=8786)
    with pytest.raises(ValueError, match=r"no Dask scheduler answers at 'nowhere' \(missing port number"):
        remoe_sim.sweep(SAMPLE, client="nowhere")
    with pytest.raises(ValueError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:1' .*; start one with 'dask"):
        remoe_sim.sweep(SAMPLE, client="tcp://127.0.0.1:1")
    client.close()
    with pytest.raises(ValueError, match="the client is asynchronous or closed; make one with"):
        remoe_sim.sweep(SAMPLE, client=client)


# --- the command, with a scheduler and workers that were started in shells


class Shells:
    """Processes of a cluster, each as a person starts it."""

    def __init__(self, folder):
        self.folder, self.running = folder, []
        self.scheduler = self.start("scheduler", "--port", "0", "--scheduler-file", str(folder / "at.json"))
        self.wait_for("Scheduler at:", "scheduler")
        self.address = json.loads((folder / "at.json").read_text())["address"]

    def start(self, kind, *arguments, **environment):
        with open(self.folder / f"{kind}.log", "w") as log:
            command = (sys.executable, "-m", "dask", kind, *arguments, "--no-dashboard")
            self.running.append(subprocess.Popen(command, stderr=log, env=os.environ | environment, cwd=self.folder))
        return self.running[-1]

    def worker(self, **environment):
        self.start("worker", self.address, "--nthreads", "1", "--local-directory", str(self.folder), **environment)
        self.wait_for("Registered to:", "worker")

    def wait_for(self, words, kind):
        import time

        end = time.monotonic() + 60
        while words not in (self.folder / f"{kind}.log").read_text():
            assert time.monotonic() < end, (self.folder / f"{kind}.log").read_text()
            time.sleep(0.1)

    def sweep(self, *arguments):
        command = "from remoe_sim.cli import run; run()"
        return subprocess.run(
            [sys.executable, "-c", command, "sweep", SAMPLE, "--dask", self.address, *arguments],
            cwd=self.folder, capture_output=True, text=True, timeout=120,
        )  # fmt: skip


@pytest.fixture
def shells(tmp_path):
    made = Shells(tmp_path)
    yield made
    for process in reversed(made.running):
        process.terminate()
    for process in made.running:
        process.wait(30)


def test_the_command_on_a_cluster(shells):
    shells.worker()
    done = shells.sweep("--cache", "4:32:4", "--policy", "lru,fifo", "-o", "s.parquet")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "remoe-sim: 16 cells are in s.parquet"
    remoe_sim.sweep(SAMPLE, "lru,fifo", "4:32:4", output=shells.folder / "here.parquet")
    assert (shells.folder / "s.parquet").read_bytes() == (shells.folder / "here.parquet").read_bytes()


def test_a_worker_without_the_package_or_with_another_version_is_refused(shells):
    fake = shells.folder / "fake"
    fake.mkdir()
    (fake / "remoe_sim.py").write_text("raise ImportError")
    shells.worker(PYTHONPATH=str(fake))
    done = shells.sweep("--cache", "8")
    assert done.returncode == 2
    assert done.stderr.startswith("remoe-sim: worker tcp://")
    assert f" has no remoe-sim; install remoe-sim {remoe_sim.__version__} (sources " in done.stderr
    shells.running[-1].terminate()
    shells.running[-1].wait(30)
    (fake / "remoe_sim.py").write_text("__version__ = '0.0.1'")
    shells.worker(PYTHONPATH=str(fake))
    done = shells.sweep("--cache", "8")
    assert done.returncode == 2
    assert f" has remoe-sim 0.0.1, and this is remoe-sim {remoe_sim.__version__} (sources " in done.stderr


def test_a_scheduler_that_goes_away(shells):
    shells.worker()

    def stop(done, total):
        if done == 1:
            shells.scheduler.kill()

    with pytest.raises(ValueError, match="the scheduler has gone away; run the sweep again to go on where it was"):
        remoe_sim.sweep(SAMPLE, "fifo,arc,sieve", "1:32", client=shells.address, progress=stop)
