"""Asks for known holes of everything that is installed beside this Python: python benchmarks/audit.py PIP_AUDIT

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
    asked = installed()
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "installed.txt")
        listed.write_text("\n".join(asked) + "\n", encoding="utf-8")
        done = subprocess.run([sys.argv[1], *OPTIONS, "-r", listed], capture_output=True, text=True)
    said, code = sentences(len(asked), answer(done))
    print("\n".join(said))
    sys.exit(code)


if __name__ == "__main__":
    main()
