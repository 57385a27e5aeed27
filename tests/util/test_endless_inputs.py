"""Inputs that never end: every reader refuses pipes, devices and files of terabytes at once, with a sentence."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.data import DEMO
from tests.support.many_commands import how_they_end

pytestmark = [pytest.mark.once, pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")]

READERS = {
    "device card": ["replay", DEMO, "--cache", "8", "--policy", "lru", "--device", "{}.toml"],
    "model card": ["estimate", "--model", "{}.toml", "--device", "rtx-4090", "--hit-rate", "0.5"],
    "config": ["estimate", "--model", "{}.json", "--device", "rtx-4090", "--hit-rate", "0.5"],
    "GGUF file": ["estimate", "--model", "{}.gguf", "--device", "rtx-4090", "--hit-rate", "0.5"],
    "configuration": ["sweep", "--config", "{}.toml"],
    "runs": ["calibrate", "{}.csv", "--device", "rtx-4090"],
    "sweep": ["verify", "{}.parquet"],
    "report": ["report", "{}.parquet", "-o", "r.html"],
    "plot": ["plot", "{}.parquet", "-o", "figures"],
    "trace": ["info", "{}.parquet"],
    "recording": ["import", "{}.csv", "-o", "t.parquet"],
    "policy": ["replay", DEMO, "--cache", "8", "--policy", "./{}.py"],
}
SPARSE = ("device card", "model card", "config", "configuration", "runs", "policy", "sweep", "report", "trace")
INSIDE = """
from remoe_sim.capture.inputs import read_prompts
from remoe_sim.finetune.recipe import read_recipe
for read, path in ((read_prompts, "{0}.txt"), (read_recipe, "./{0}.toml")):
    try:
        read(path)
    except ValueError as error:
        print(error)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(kind, path):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        Path(path).touch()
        os.truncate(path, 2**43)
    else:
        Path(path).symlink_to(f"/dev/{kind}")


def run(command):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


@cache
def ended(kind, names, folder):
    """How the readers of these names end, given what need not end: their exit codes and what they said."""
    commands = {name: [word.format(f"it-{place}") for word in READERS[name]] for place, name in enumerate(names)}
    for command in commands.values():
        make(kind, folder / next(word.removeprefix("./") for word in command if word.startswith(("it-", "./it-"))))
    return how_they_end(commands, folder)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder for each kind."""
    return {kind: tmp_path_factory.mktemp(kind) for kind in ("pipe", "zero", "random", "sparse")}


@pytest.mark.parametrize("kind", ["pipe", "zero", "random"])
@pytest.mark.parametrize("name", READERS)
def test_what_need_not_end_is_refused(name, kind, places):
    if name == "GGUF file":
        pytest.importorskip("gguf")
    names = ("device card", "runs", "recording") if kind == "random" else tuple(READERS)
    if name not in names:
        pytest.skip("as /dev/zero")
    code, said = ended(kind, names, places[kind])[name]
    assert code == 2, said
    assert said.count("\n") == 1
    assert f" is {'a pipe' if kind == 'pipe' else 'a device'}, which need not end; write" in said


@pytest.mark.parametrize("name", SPARSE)
def test_a_file_of_terabytes_is_refused(name, places):
    code, said = ended("sparse", SPARSE, places["sparse"])[name]
    assert code == 2, said
    assert said.count("\n") == 1
    if name not in ("sweep", "report", "trace"):
        assert "MiB, and no more than that is read of such a file; name another one" in said


@pytest.mark.parametrize("kind", ["pipe", "zero", "sparse"])
def test_prompts_and_recipes(kind, folder):
    make(kind, "it.txt")
    make(kind, "it.toml")
    done = run(["-c", INSIDE.format("it")])
    assert done.returncode == 0, done.stderr
    said = "has more than" if kind == "sparse" else "which need not end"
    assert [said in line for line in done.stdout.splitlines()] == [True, True]


def test_a_file_that_grows_is_read_to_its_limit_only(folder):
    from remoe_sim.util.input_files import UnsuitableError, read_bytes, read_text

    Path("t").write_bytes(b"a\r\nb\rc")
    assert read_text("t") == "a\nb\nc"
    assert read_bytes("t", most=6) == b"a\r\nb\rc"
    with pytest.raises(UnsuitableError, match="card 't' has more than 0 MiB"):
        read_bytes("t", "card", most=5)
    if Path("/proc/self/maps").exists():  # of no size, it says
        with pytest.raises(UnsuitableError):
            read_bytes("/proc/self/maps", most=100)
        assert read_bytes("/proc/self/status")


def test_a_small_file_takes_no_more_memory_than_it_has(folder):
    import tracemalloc

    from remoe_sim.util.input_files import ROWS_BYTES, read_bytes

    Path("t").write_bytes(b"x" * 3_000_000)
    tracemalloc.start()
    try:
        assert len(read_bytes("t", most=ROWS_BYTES)) == 3_000_000
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
