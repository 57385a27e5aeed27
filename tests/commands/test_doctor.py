"""`doctor` where all is well and where it is not, and completion in a shell."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from remoe_sim.kernels import compile
from remoe_sim.reports import installation

BIN = Path(sys.executable).parent


def show(*arguments):
    done = CliRunner().invoke(cli.main, ["doctor", *arguments])
    assert done.exit_code == 0
    return done


def test_what_is_installed_is_said():
    found = remoe_sim.doctor()
    packages = {one.name: one for one in found.packages}
    assert found.version == remoe_sim.__version__
    assert {"click", "numba", "numpy", "pyarrow"} <= set(packages)
    assert packages["numba"].version == metadata.version("numba")
    assert {extra.name for extra in found.extras} >= {"capture", "gguf"}
    assert not {one.name for extra in found.extras for one in extra.packages} & set(packages)
    for extra in found.extras:
        assert (extra.install is None) == all(one.fits for one in extra.packages), extra
    directory = compile.cache_directory()
    assert found.cache.directory == str(directory)
    assert found.cache.kernels == len(list(directory.rglob("*.nbc")))


def test_both_outputs_say_the_same():
    answer = json.loads(show("--json").stdout)
    assert answer == json.loads(json.dumps(remoe_sim.doctor().to_dict()))
    assert answer["schema"] == "remoe-sim.doctor.v1"
    text = show().stdout
    for part in (answer["version"], answer["python"], answer["cache"]["directory"]):
        assert part in text
    for extra in answer["extras"]:
        assert extra["name"] in text
        assert extra["install"] is None or extra["install"] in text


def test_what_is_missing_or_old_is_said_with_its_remedy(monkeypatch):
    real = metadata.version

    def version(name):
        if name in ("rich", "gguf"):
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "click" else real(name)

    monkeypatch.setattr(installation.metadata, "version", version)
    monkeypatch.setattr(compile, "cache_directory", lambda: None)
    done = show()
    assert "click         0.1, but >=" in done.stdout
    assert "gguf missing" in done.stdout
    assert "pip install 'remoe-sim[gguf]'" in done.stdout
    assert "package click is 0.1, and click>=" in done.stderr
    assert "package rich is not installed" in done.stderr
    assert "no place for compiled kernels" not in done.stderr  # first things first


def test_no_place_for_kernels(monkeypatch):
    monkeypatch.setattr(compile, "cache_directory", lambda: None)
    done = show()
    assert "none: no place is writable" in done.stdout
    assert "set REMOE_SIM_CACHE_DIR" in done.stderr


@pytest.mark.once
def test_doctor_answers_without_the_compiler():
    code = "import sys; sys.modules['numba'] = None\nfrom remoe_sim import cli\ncli.main.main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "kernel cache" in done.stdout) == (0, True), done.stderr


# --- completion


def complete(words, number):
    """What the shell offers, as click's script asks for it, and the modules that were loaded for it."""
    code = "import sys\ntry:\n from remoe_sim import cli; cli.run()\nfinally:\n print(*sys.modules, file=sys.stderr)"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(number), "_REMOE_SIM_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
    return done.stdout.splitlines(), done.stderr.split()


@pytest.mark.once
@pytest.mark.parametrize(
    ("words", "number", "offered"),
    [
        ("remoe-sim doc", 1, ["plain,doctor"]),
        ("remoe-sim replay --admiss", 2, ["plain,--admission"]),
        ("remoe-sim replay samp", 2, ["file,samp"]),
    ],
)
def test_commands_options_and_files_are_completed_without_loading_anything_heavy(words, number, offered):
    found, modules = complete(words, number)
    assert found == offered
    assert not {"numpy", "numba", "pandas", "pyarrow", "matplotlib", "rich"} & set(modules)


@pytest.mark.once
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_of_shells(shell):
    found = os.environ | {"_REMOE_SIM_COMPLETE": f"{shell}_source", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    script = subprocess.run(["remoe-sim"], env=found, capture_output=True, text=True).stdout
    assert f"{shell}_complete" in script
    if shell == "bash":
        done = subprocess.run(["bash"], input=f"{script}\ncomplete -p remoe-sim", capture_output=True, text=True)
        assert (done.returncode, "-F _remoe_sim_completion" in done.stdout) == (0, True), done.stderr


@pytest.mark.heavy("numba")  # compiles all that there is
def test_all_is_compiled_at_once(tmp_path):
    environment = os.environ | {"REMOE_SIM_CACHE_DIR": str(tmp_path)}
    command = [BIN / "remoe-sim", "doctor", "--compile", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "compiling kernels" in line] == done.stderr.splitlines()[:1]
    count = json.loads(done.stdout)["cache"]["kernels"]
    verdict = [BIN / "remoe-sim", "verdict", "sample:qwen-original", "--cache", "8"]
    assert "compiling" not in subprocess.run(verdict, env=environment, capture_output=True, text=True).stderr
    again = subprocess.run([BIN / "remoe-sim", "doctor", "--json"], env=environment, capture_output=True, text=True)
    assert json.loads(again.stdout)["cache"]["kernels"] == count
