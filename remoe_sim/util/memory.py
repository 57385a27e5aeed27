"""How much more memory may be taken: what the user allows, and what this machine and the group of its processes have.

Only work that can be done side by side or one after the other asks, so a limit makes a command slower and never stops
it; what is computed is the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from remoe_sim.util.units import parse_bytes

VARIABLE = "REMOE_SIM_MEMORY_LIMIT"
SHARE = 0.8  # of what is available; the rest is left to others
UNNOTICED = 2**20  # bytes for which nobody has to ask
_MEMINFO, _GROUPS, _OF_SELF = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_NO_LIMIT = 2**60  # version 1 of control groups says a number above this for no limit
_limit: int | None = None


def limit_memory(size: int | str | None) -> None:
    """Limit the memory of this process to `size`, such as "4GiB"; None: to what is available.

    Layers are held side by side only as far as they fit, at least one. The environment variable REMOE_SIM_MEMORY_LIMIT
    does the same for every process. Raises ValueError for what is not a size.
    """
    global _limit
    _limit = None if size is None else parse_bytes(size)


def memory_limit() -> int | None:
    """Bytes that `limit_memory` or the environment variable allows; None if neither says anything."""
    if _limit is not None:
        return _limit
    told = os.environ.get(VARIABLE)
    if not told:
        return None
    try:
        return parse_bytes(told)
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {error}") from None


def room() -> float:
    """Bytes that may be taken beyond what this process has now; infinite where nothing tells."""
    limit, left = memory_limit(), available()
    least = float("inf") if left is None else SHARE * left
    return least if limit is None else min(least, limit - resident())


def resident() -> int:
    """Bytes of memory that this process has now, or had at most where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _most_resident()


def _most_resident() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def available(meminfo: Path = _MEMINFO, groups: Path = _GROUPS, of_self: Path = _OF_SELF) -> int | None:
    """Bytes that can be had without swapping: of the machine, and of each control group that this process is in; None
    where the system does not say."""
    found = [_of_machine(meminfo), *(_of_group(folder) for folder in _folders(groups, of_self))]
    return min((one for one in found if one is not None), default=None)


def _of_machine(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _folders(groups: Path, of_self: Path) -> list[Path]:
    """Folders of the control groups of this process, of either version, from its own to the one of all."""
    try:
        lines = of_self.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        base = groups / "memory" if controllers else groups
        own = base / path.lstrip("/")
        found += [own, *(folder for folder in own.parents if folder == base or base in folder.parents)]
        found += [] if base in found else [base]
    return found


def _of_group(folder: Path) -> int | None:
    """What a control group may still take; files that it has read can go."""
    for most, now in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            limit, used = ((folder / name).read_text("ascii").strip() for name in (most, now))
            if limit == "max" or int(limit) >= _NO_LIMIT:
                return None
            return max(int(limit) - int(used) + _files(folder), 0)
        except (OSError, ValueError):
            continue
    return None


def _files(folder: Path) -> int:
    """Bytes of files in memory of a control group that was not asked for them lately."""
    try:
        rows = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return sum(int(rows.get(name, 0)) for name in ("inactive_file", "active_file"))
