"""`make audit`: a hole is named and fails; without an answer it says that nothing was audited."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "audit.py"
pytestmark = pytest.mark.once
PROGRAM = """#!{python}
import sys
assert "-r" in sys.argv
print({said!r})
"""


def audited(folder, said):
    """What the script says where pip-audit says that."""
    program = folder / "pip-audit"
    program.write_text(PROGRAM.format(python=sys.executable, said=said))
    program.chmod(0o755)
    done = subprocess.run([sys.executable, SCRIPT, program], capture_output=True, text=True)
    return done.stdout, done.returncode


def test_a_hole_is_named(tmp_path):
    said = '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}'
    text, code = audited(tmp_path, said)
    assert code == 1
    assert "1 known holes\na 1: CVE-1, mended in 2" in text


def test_nothing_known(tmp_path):
    text, code = audited(tmp_path, '{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}')
    assert code == 0
    assert text.startswith("1 of ")


@pytest.mark.parametrize("said", ["", "Max retries exceeded", '{"dependencies": [{"name": "a", "skip_reason": "x"}]}'])
def test_without_an_answer_nothing_is_claimed(tmp_path, said):
    text, code = audited(tmp_path, said)
    assert code == 0
    assert text.startswith("audit skipped: the database cannot be reached")


def test_what_is_installed_is_asked_for():
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    names = [one.partition("==")[0] for one in audit.installed()]
    assert "numpy" in names
    assert "remoe-sim" not in names
