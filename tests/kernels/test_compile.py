"""Compiled kernels: kept on disk, never stale, and nothing heavy is loaded before it is needed; house lint."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import remoe_sim.traces

import remoe_sim
from remoe_sim import cli
from remoe_sim.kernels import compile

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numba", "pandas", "matplotlib", "pyarrow", "llvmlite", "rich", "torch")
SOURCES = sorted(file for folder in ("remoe_sim", "policies", "traces") for file in (ROOT / folder).rglob("*.py"))


def run(code, *paths, **environment):
    """What a new process prints; no setting of Numba or of this package is inherited."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "REMOE_SIM_"))}
    inherited["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    done = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def fresh(monkeypatch):
    """`cache_directory` without its memory, in an environment that names no place."""
    for name in ("REMOE_SIM_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return compile.cache_directory.__wrapped__


def unwritable(folder):
    """Make a folder that nobody can write to, root included: there is a file in its way."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    return folder


# --- where


def test_kernels_are_kept_beside_the_package(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(compile, "_HERE", tmp_path / "package")
    assert fresh() == tmp_path / "package" / "__pycache__" / "kernels" / compile.source_digest()
    assert list(fresh().iterdir()) == []


def test_a_read_only_package_leads_to_the_users_cache(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(compile, "_HERE", unwritable(tmp_path / "package"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fresh() == tmp_path / "cache" / "remoe-sim" / compile.source_digest()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fresh() == tmp_path / ".cache" / "remoe-sim" / compile.source_digest()


def test_the_environment_decides_first(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("REMOE_SIM_CACHE_DIR", str(tmp_path / "mine"))
    assert fresh() == tmp_path / "mine" / compile.source_digest()
    monkeypatch.setenv("REMOE_SIM_CACHE_DIR", str(unwritable(tmp_path / "file")))
    assert fresh() is None  # the place that was named, or none


def test_a_user_without_a_home_is_no_obstacle(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(compile.os.path, "expanduser", str)  # how it says that it knows of none
    monkeypatch.setattr(compile, "_HERE", tmp_path)
    assert fresh() is not None
    monkeypatch.setattr(compile, "_HERE", unwritable(tmp_path / "package"))
    assert fresh() is None


KERNEL = "from remoe_sim.kernels.compile import cache_directory, kernel\n"


@pytest.mark.once
def test_without_a_writable_place_kernels_work_all_the_same(tmp_path):
    code = (
        "from remoe_sim.kernels.compile import cache_directory\nfrom remoe_sim.kernels.lists import clear\n"
        "import numpy as np\n"
        "state = np.zeros((3, 4), np.int64)\nclear(state, 1, 2)\nprint(cache_directory(), state[1, 2], state[2, 2])"
    )
    assert run(code, REMOE_SIM_CACHE_DIR=str(unwritable(tmp_path / "file"))) == "None 2 2"


# --- never stale


def test_the_digest_changes_with_every_source(monkeypatch, tmp_path):
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text("a")
    second.write_text("b")
    monkeypatch.setattr(compile, "_sources", lambda: [first, second])
    seen = [compile.source_digest.__wrapped__()]
    assert compile.source_digest.__wrapped__() == seen[0]
    for file, text in ((second, "c"), (first, "ab"), (second, "")):
        file.write_text(text)
        seen.append(compile.source_digest.__wrapped__())
    second.rename(tmp_path / "third.py")
    monkeypatch.setattr(compile, "_sources", lambda: [first, tmp_path / "third.py"])
    seen.append(compile.source_digest.__wrapped__())
    assert len(set(seen)) == 5


def test_the_digest_covers_all_kernels():
    covered = set(compile._sources())
    written = {file for file in SOURCES if re.search(r"@kernel|import kernel\b", file.read_text())}
    assert written <= covered
    assert {ROOT / "remoe_sim" / "kernels" / "compile.py", ROOT / "policies" / "fifo.py"} <= covered


INNER = f"{KERNEL}\n@kernel\ndef inner(x):\n    return x + 1\n"
OUTER = f"{KERNEL}from inner import inner\n\n@kernel\ndef outer(x):\n    return inner(x)\n"


@pytest.mark.once
def test_an_edited_helper_of_another_file_is_compiled_anew(tmp_path):
    (tmp_path / "inner.py").write_text(INNER)
    (tmp_path / "outer.py").write_text(OUTER)
    code = (
        "import pathlib, sys\nfrom remoe_sim.kernels import compile\n"
        "compile._sources = lambda: sorted(pathlib.Path(sys.path[1]).glob('*er.py'))\n"
        "from outer import outer\nresult = outer(1)\nstats = outer.stats\n"
        "print(result, len(stats.cache_hits), len(stats.cache_misses))"
    )

    def once():
        return run(code, tmp_path, REMOE_SIM_CACHE_DIR=str(tmp_path / "kept"))

    assert once() == "2 0 1"  # compiled
    assert once() == "2 1 0"  # from disk
    (tmp_path / "inner.py").write_text(INNER.replace("x + 1", "x + 2"))
    assert once() == "3 0 1"  # compiled anew, though outer.py is what it was
    assert once() == "3 1 0"
    assert len(list((tmp_path / "kept").iterdir())) == 2


# --- compiled once


COUNT = (
    "import os, pathlib, sys, time\nfrom numba.core import event\nfrom remoe_sim.kernels import compile\n"
    "here = pathlib.Path(sys.path[1])\ncompile._sources = lambda: sorted(here.glob('*er.py'))\n"
    "from outer import outer\n"
)
BEGINS = (
    "class Begins(event.Listener):\n    def on_start(self, _):\n        begin()\n"
    "    def on_end(self, _):\n        pass\n"
    "event.register('numba:compile', Begins())\n"
)
ANSWER = "print(outer(1), len(outer.stats.cache_misses))"


@pytest.fixture
def shared(tmp_path):
    """How to start a process that calls a kernel, after lines of its own; all keep what they compile in one place."""
    (tmp_path / "inner.py").write_text(INNER)
    (tmp_path / "outer.py").write_text(OUTER)
    kept = {"REMOE_SIM_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": str(tmp_path)}
    started = []

    def start(code):
        command = [sys.executable, "-c", f"{COUNT}{code}"]
        started.append(subprocess.Popen(command, env=os.environ | kept, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def answer(process):
    return process.communicate(timeout=100)[0].strip()


@pytest.mark.once
def test_a_process_waits_for_what_another_compiles(shared):
    wait = (
        "    (here / 'begun').touch()\n    while not (here / 'asked').exists(): time.sleep(0.01)\n    time.sleep(0.5)\n"
    )
    ask = "while not (here / 'begun').exists(): time.sleep(0.01)\n(here / 'asked').touch()\n"
    both = shared(f"def begin():\n{wait}{BEGINS}{ANSWER}"), shared(f"{ask}{ANSWER}")
    assert [answer(one) for one in both] == ["2 1", "2 0"]


@pytest.mark.once
def test_nobody_waits_for_a_process_that_died(shared):
    assert answer(shared(f"begin = lambda: os._exit(1)\n{BEGINS}{ANSWER}")) == ""
    assert answer(shared(ANSWER)) == "2 1"


@pytest.mark.once
def test_nobody_waits_for_what_cannot_be_compiled(shared, tmp_path):
    wait = "(here / 'failed').touch()\nwhile not (here / 'done').exists(): time.sleep(0.01)\n"
    failing = shared(f"try:\n    outer(None)\nexcept Exception as error:\n    print(type(error).__name__)\n{wait}")
    other = shared(f"while not (here / 'failed').exists(): time.sleep(0.01)\n{ANSWER}")
    assert answer(other) == "2 1"  # while the first still runs
    (tmp_path / "done").touch()
    assert answer(failing) == "TypingError"


# --- nothing heavy before it is needed


def loaded(code, names=HEAVY):
    printed = run(f"import sys\n{code}\nprint('loaded:', *(name for name in {names} if name in sys.modules))")
    return printed.rpartition("loaded:")[2].strip()


@pytest.mark.once
def test_importing_the_package_loads_nothing_heavy():
    assert loaded("import remoe_sim; dir(remoe_sim)") == ""


@pytest.mark.once
def test_help_loads_nothing_heavy():
    names = cli.main.list_commands(None)
    assert {"replay", "curve", "info", "demo"} <= set(names)
    code = (
        "import sys\nfrom remoe_sim import cli\n"
        f"for arguments in (['--help'], *([name, '--help'] for name in {names})):\n"
        "    cli.main.main(arguments, standalone_mode=False)\n"
        f"    heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "    assert heavy == [], (arguments, heavy)"
    )
    printed = run(code)
    assert all(f"remoe-sim {name} " in printed for name in names)


@pytest.mark.once
def test_a_replay_by_kept_kernels_loads_nothing_that_only_compiling_needs():
    names = ("numba", "numba.np.arraymath", "scipy.linalg", "pandas", "pyarrow.compute")
    sample = min(path.stem for folder in remoe_sim.traces.__path__ for path in Path(folder).glob("samples/*.parquet"))
    code = f"import remoe_sim\nremoe_sim.replay('sample:{sample}', cache=8, policy=['lru', 'belady'])"
    run(code)  # compiles, unless that was done before
    assert loaded(code, names) == "numba"


def test_no_module_bears_the_name_of_a_public_function():
    modules = {file.stem for file in (ROOT / "remoe_sim").iterdir() if file.stem != "__init__"}
    assert not modules & set(remoe_sim.__all__)


# --- house lint


@pytest.mark.parametrize("pattern", [r"\bprange\b", r"parallel\s*=\s*True", r"\bjitclass\b", r"typed\.Dict"])
def test_banned_from_all_sources(pattern):
    assert [str(file) for file in SOURCES if re.search(pattern, file.read_text())] == []


def test_only_one_place_decides_how_code_is_compiled():
    using = [file.name for file in SOURCES if re.search(r"\bn?jit\(|@n?jit\b|@numba\.", file.read_text())]
    assert using == ["compile.py"]


def test_no_file_is_long():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_the_library_names_no_plugin():
    named = re.compile(r"remoe_sim\.(policies|traces)\.(?!__path__)\w|from remoe_sim\.(policies|traces) import")
    assert [str(file) for file in (ROOT / "remoe_sim").rglob("*.py") if named.search(file.read_text())] == []
