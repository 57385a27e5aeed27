"""Outputs that stand already: links are followed, permissions kept, pipes and devices written to, for every command."""

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from remoe_sim import cli
from remoe_sim.util.files import locked, replacing
from remoe_sim.util.output_places import UnwritableError
from tests.support.data import DEMO

pytestmark = [pytest.mark.once, pytest.mark.skipif(os.name == "nt", reason="links, pipes and modes of POSIX")]

WRITERS = {
    "synth": ("t.parquet", ["synth", "--tokens", "60", "--layers", "2", "-o"]),
    "import": ("t.parquet", ["import", "given.csv", "--experts", "4", "-o"]),
    "export npz": ("t.npz", ["export", DEMO, "-o"]),
    "export csv": ("t.csv", ["export", DEMO, "-o"]),
    "export oracle-general": ("t.oracleGeneral", ["export", DEMO, "-o"]),
    "curve csv": ("c.csv", ["curve", DEMO, "--policy", "lru", "-o"]),
    "curve json": ("c.json", ["curve", DEMO, "--policy", "lru", "-o"]),
    "curve parquet": ("c.parquet", ["curve", DEMO, "--policy", "lru", "-o"]),
    "report": ("r.html", ["report", DEMO, "--cache", "8", "--policy", "lru", "-o"]),
    "timeline": ("t.json", ["replay", DEMO, "--cache", "8", "--policy", "lru", "--device", "rtx-4090",
                            "--overlap", "none", "--timeline"]),
}  # fmt: skip
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PLAIN_CSV = "request,position,phase,layer,e0\n0,0,decode,0,1\n0,1,decode,0,2\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("given.csv").write_text(PLAIN_CSV)
    Path("far").mkdir()
    return tmp_path


def run(*arguments):
    done = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def read_through(pipe):
    """What comes out of a pipe, once it has come; in a thread, as its reader and writer wait for each other."""
    found = []
    thread = threading.Thread(target=lambda: found.append(Path(pipe).read_bytes()), daemon=True)
    thread.start()
    return lambda: (thread.join(60), found[0])[1]


@pytest.mark.parametrize("name", WRITERS)
def test_every_command_leaves_what_stands_at_its_output(name, folder):
    file, command = WRITERS[name]
    run(*command, file)
    content = Path(file).read_bytes()
    Path(file).rename("whole")
    # a link, whose target has permissions of its own
    Path("far", file).write_bytes(b"old")
    Path("far", file).chmod(0o640)
    Path(file).symlink_to(Path("far", file))
    run(*command, file)
    assert Path(file).is_symlink()
    assert Path("far", file).read_bytes() == content
    assert stat.S_IMODE(Path("far", file).stat().st_mode) == 0o640
    assert [left.name for left in Path("far").iterdir()] == [file]
    # a pipe
    Path(file).unlink()
    os.mkfifo(file)
    content_of = read_through(file)
    run(*command, file)
    assert content_of() == content
    assert stat.S_ISFIFO(Path(file).stat().st_mode)
    # a device
    Path(file).unlink()
    Path(file).symlink_to("/dev/null")
    run(*command, file)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert Path(file).is_symlink()


def test_figures_and_cards_and_sweeps_follow_links(folder):
    pytest.importorskip("matplotlib")
    sweep = ["sweep", DEMO, "--policy", "lru", "--cache", "8", "-o", "s.parquet"]
    Path("s.parquet").symlink_to("far/s.parquet")  # leads to nothing yet
    run(*sweep)
    Path("far/s.parquet").chmod(0o604)
    run(*[one.replace("8", "8,9") for one in sweep])
    assert Path("s.parquet").is_symlink()
    assert stat.S_IMODE(Path("far/s.parquet").stat().st_mode) == 0o604
    assert [left.name for left in Path("far").iterdir()] == ["s.parquet"]
    with locked(Path("far/s.parquet"), "in use"), pytest.raises(ValueError, match="another sweep is writing"):
        run(*sweep)  # the same file by another name
    Path("figures").symlink_to("far/figures")
    run("plot", "s.parquet", "--figure", "hit-rate", "-o", "figures")
    assert [left.name for left in Path("far/figures").iterdir()] == ["hit-rate.svg"]


def test_a_sweep_goes_to_files_only(folder):
    Path("s.parquet").symlink_to("/dev/null")
    with pytest.raises(ValueError, match=r"'s\.parquet' is a device, and a sweep goes on with what it wrote; name a"):
        run("sweep", DEMO, "--policy", "lru", "--cache", "8", "-o", "s.parquet")
    Path("s.parquet").unlink()
    os.mkfifo("s.parquet")
    with pytest.raises(ValueError, match=r"'s\.parquet' is a pipe, "):
        run("sweep", DEMO, "--policy", "lru", "--cache", "8", "-o", "s.parquet")
    with pytest.raises(ValueError, match=r"'s\.parquet' is a pipe, "):
        run("sweep", DEMO, "--policy", "lru", "--cache", "8", "-o", "s.parquet", "--dry-run")


@pytest.mark.parametrize(("file", "command"), [WRITERS["curve csv"], WRITERS["report"]])
def test_what_the_process_has_open_is_written_to_in_order(file, command, folder):
    run(*command, file)
    Path(file).rename(f"whole-{file}")
    Path(file).symlink_to("/dev/stdout")
    called = f"remoe_sim.cli.main({[*command, file]!r}, standalone_mode=False)"
    code = f"import remoe_sim.cli; print('before'); {called}; print('after')"
    for redirected in (False, True):
        with open("out", "wb") as out:
            done = subprocess.run([sys.executable, "-c", code], stdout=out if redirected else subprocess.PIPE)
        assert done.returncode == 0
        said = Path("out").read_bytes() if redirected else done.stdout
        assert said == b"before\n" + Path(f"whole-{file}").read_bytes() + b"after\n"
        assert Path(file).is_symlink()


def test_places_that_are_refused(folder, monkeypatch):
    import socket

    monkeypatch.setattr("remoe_sim.util.output_places.READER_S", 0.1)
    os.mkfifo("pipe")
    with (
        pytest.raises(UnwritableError, match="'pipe' is a pipe that nobody reads; start what reads it first"),
        replacing("pipe"),
    ):
        pass
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    with (
        pytest.raises(UnwritableError, match="'socket' is a socket and is not written to; name a file"),
        replacing("socket"),
    ):
        pass
    Path("circle").symlink_to("circle")
    with pytest.raises(UnwritableError, match=r"'circle' cannot be written: .*symbolic links"), replacing("circle"):
        pass
    with pytest.raises(UnwritableError, match="'far' cannot be written: is a directory; name a file"), replacing("far"):
        pytest.fail("told before the work")
    with (
        pytest.raises(UnwritableError, match="'/dev/full' cannot be written: no space left"),
        replacing("/dev/full") as beside,
    ):
        beside.write_bytes(b"x" * 100_000)
    for place in ("socket", "pipe", "circle"):
        assert os.path.lexists(place)


def test_nobody_else_reads_what_becomes_of_a_private_file(folder):
    Path("mine").write_text("old")
    Path("mine").chmod(0o600)
    with replacing("mine") as beside:
        assert stat.S_IMODE(beside.stat().st_mode) == 0o600
        beside.write_text("new")
    assert stat.S_IMODE(Path("mine").stat().st_mode) == 0o600
    with replacing("new") as beside:
        beside.write_text("new")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(Path("new").stat().st_mode) == 0o666 & ~mask


def test_the_owner_and_group_stay(folder):
    if os.geteuid():
        pytest.skip("only root gives files to others")
    Path("theirs").write_text("old")
    os.chown("theirs", 1234, 2345)
    with replacing("theirs") as beside:
        beside.write_text("new")
    assert (Path("theirs").stat().st_uid, Path("theirs").stat().st_gid) == (1234, 2345)


def test_access_lists_stay(folder):
    if shutil.which("setfacl") is None:
        pytest.skip("needs setfacl")
    Path("shared").write_text("old")
    if subprocess.run(["setfacl", "-m", "u:1234:rw", "shared"], capture_output=True).returncode:
        pytest.skip("the file system has no access lists")
    before = subprocess.run(["getfacl", "shared"], capture_output=True).stdout
    with replacing("shared") as beside:
        beside.write_text("new")
    assert subprocess.run(["getfacl", "shared"], capture_output=True).stdout == before


def test_a_file_that_may_not_be_written_to_stays(folder):
    Path("kept").write_text("old")
    Path("kept").chmod(0o444)
    code = """
import os
from faults import give_up_reading_all
from remoe_sim.util.files import replacing
os.geteuid() or give_up_reading_all()
with replacing("kept") as beside:
    beside.write_text("new")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    )
    assert "'kept' cannot be written: permission denied" in done.stderr
    assert Path("kept").read_text() == "old"
