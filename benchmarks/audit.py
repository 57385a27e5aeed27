"""Asks for known holes of everything that is installed beside this Python: python -m benchmarks.audit PIP_AUDIT

PIP_AUDIT: the program, which may be installed elsewhere. Ends with 1 if there is a hole; where the database cannot be
reached, or knows nothing of what is installed, it says so and ends with 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.script import options

OPTIONS = ("--disable-pip", "--no-deps", "--progress-spinner", "off", "--timeout", "15", "--format", "json")


def installed() -> list[str]:
    """`name==version` of what is installed, without marks of a build, but for this package."""
    found = {one.metadata["Name"]: one.version.partition("+")[0] for one in distributions()}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name != "remoe-sim"]


def answer(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]] | None:
    """What the database says of each distribution; None if there was no answer."""
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        return found
    except (ValueError, KeyError, TypeError):
        return None


def sentences(asked: int, found: list[dict[str, Any]] | None) -> tuple[list[str], int]:
    """What to say, and the exit code."""
    known = [one for one in found or () if "vulns" in one]
    if not known:
        return [f"audit skipped: the database cannot be reached, or knows none of {asked} distributions"], 0
    holes = [(one, hole) for one in known for hole in one["vulns"]]
    said = [f"{len(known)} of {asked} distributions audited, {len(holes)} known holes"]
    for one, hole in holes:
        fixed = ", ".join(hole.get("fix_versions") or ()) or "no version yet"
        said.append(f"{one['name']} {one['version']}: {hole['id']}, mended in {fixed}")
    return said, int(bool(holes))


def main() -> None:
    parser = options(__doc__, quick={}, output=None)
    parser.add_argument("program", nargs="?", help="pip-audit")
    given, asked = parser.parse_args(), installed()
    if given.quick:
        print(f"would ask for known holes of {len(asked)} distributions")
        return
    if given.program is None:
        parser.error("name the program pip-audit")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "installed.txt")
        listed.write_text("\n".join(asked) + "\n", encoding="utf-8")
        done = subprocess.run([given.program, *OPTIONS, "-r", listed], capture_output=True, text=True)
    said, code = sentences(len(asked), answer(done))
    print("\n".join(said))
    sys.exit(code)


if __name__ == "__main__":
    main()
