"""The names that functions and commands take, and small things that a notebook expects of them."""

import shutil
import subprocess
import sys

import pytest

import remoe_sim
from tests.support.scripts import ROOT


@pytest.mark.parametrize("kind", ["devices", "hosts", "storage", "engines", "models", "policies", "formats", "quants",
                                  "samples"])  # fmt: skip
def test_every_kind_has_names(kind):
    found = remoe_sim.names(kind)
    assert len(found) > 3
    assert len(set(found)) == len(found)
    assert {"devices": "rtx-4090", "policies": "lru", "samples": "qwen-original"}.get(kind, found[0]) in found


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kind 'device'; did you mean 'devices'"):
        remoe_sim.names("device")


def test_a_result_by_its_place_and_by_its_name():
    report = remoe_sim.replay("sample:qwen-original", cache=8, policy="fifo,lru")
    assert report[0] is report["fifo"]
    assert report[-1] is report["lru"]


@pytest.mark.parametrize("sizes", [[4, 8], (4, 8), "4,8", "4:8"])
def test_several_sizes_are_for_other_functions(sizes):
    with pytest.raises(ValueError, match="is several sizes, and one is taken here; sweep and curve take several"):
        remoe_sim.replay("sample:qwen-original", cache=sizes)


def test_a_copy_of_the_sources_works_without_being_installed(tmp_path):
    for name in ("remoe_sim", "policies", "traces"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import remoe_sim; print(remoe_sim.__file__, remoe_sim.names('samples'), len(remoe_sim.names('policies')))"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert found.stderr == ""
    assert str(tmp_path) in found.stdout
    assert "qwen-original" in found.stdout
