"""The package as others get it: a wheel, installed in an environment of its own, run from another directory."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

import remoe_sim

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PARTS = ("remoe_sim", "policies", "traces", "pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def call(*command, cwd, **environment):
    """Run a command that must succeed, with no setting of Numba or of this package; its standard output."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "REMOE_SIM_"))}
    inherited.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=cwd, env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that nothing is left behind in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "tree" / name)
    call(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, "./tree", cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel; what it depends on is borrowed from the one that runs the tests."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", place, cwd=place.parent)
    python = place / "bin" / "python"
    call(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=place.parent)
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    (site / "borrowed.pth").write_text(str(Path(np.__file__).parents[1]))
    return place


@pytest.mark.once
def test_the_wheel_holds_all_plugins_and_data_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for inside, outside in (("remoe_sim/policies", "policies"), ("remoe_sim/traces", "traces")):
        assert {f"{inside}/{file.name}" for file in (ROOT / outside).glob("*.py")} <= names
    own = {str(file.relative_to(ROOT)) for file in (ROOT / "remoe_sim").rglob("*.py")}
    assert own <= names
    cards = {str(file.relative_to(ROOT)) for file in (ROOT / "remoe_sim").rglob("*.toml")}
    assert {name for name in names if name.endswith(".toml")} == cards
    assert {
        f"remoe_sim/{name}" for name in ("py.typed", "traces/samples/qwen-original.parquet", "traces/samples/README.md")
    } <= names
    assert not [name for name in names if re.search(r"tests|__pycache__|\.nb[ic]$", name)]
    assert {name.split("/")[0] for name in names} == {"remoe_sim", f"remoe_sim-{remoe_sim.__version__}.dist-info"}


@pytest.mark.once
def test_the_wheel_depends_on_no_test_tool(wheel):
    metadata = zipfile.ZipFile(wheel).read(f"remoe_sim-{remoe_sim.__version__}.dist-info/METADATA").decode()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert len(needed) == len(PROJECT["project"]["dependencies"])
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata


@pytest.mark.heavy("numba")  # takes long
def test_an_installed_package_works_anywhere_and_when_read_only(installed, tmp_path):
    """As root no permission keeps anybody from writing, so a file lies where the kernels would go."""
    package = Path(
        call(installed / "bin" / "python", "-c", "import remoe_sim; print(remoe_sim.__file__)", cwd=tmp_path)
    )
    package = package.parent
    assert installed in package.parents
    shutil.rmtree(package / "__pycache__", ignore_errors=True)
    (package / "__pycache__").write_text("in the way")
    package.chmod(0o555)
    command = installed / "bin" / "remoe-sim"
    first = call(command, "demo", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert "belady*" in first
    kept = list((tmp_path / "cache" / "remoe-sim").iterdir())
    assert len(kept) == 1
    assert list(kept[0].rglob("*.nbi"))
    assert call(command, "demo", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache")) == first
    code = "import remoe_sim; print(remoe_sim.info(remoe_sim.read_trace('sample:qwen-remoe')).tokens)"
    assert (
        int(call(installed / "bin" / "python", "-c", code, cwd=tmp_path))
        == remoe_sim.read_trace("sample:qwen-remoe").tokens
    )


@pytest.mark.once
def test_the_version_is_told_once(installed, tmp_path):
    assert call(installed / "bin" / "remoe-sim", "--version", cwd=tmp_path).split()[-1] == remoe_sim.__version__
    assert PROJECT["project"]["dynamic"] == ["version"]


def test_the_makefile_has_the_targets_that_people_are_told_of():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "test-all", "check", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert f"make {target}" in makefile
    for command in ("make test", "make test-all"):
        assert re.search(rf"^{command} ", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
