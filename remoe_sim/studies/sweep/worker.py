"""What a worker of a cluster does: a unit of a sweep, by one thread, with the trace it opened last still at hand."""

from __future__ import annotations

import hashlib
import pickle
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from remoe_sim.studies.sweep.units import OpenTrace, Unit
from remoe_sim.util.threads import one_thread
from remoe_sim.util.version import __version__

if TYPE_CHECKING:
    from remoe_sim.studies.sweep.cells import Subject

MOST_OPEN = 2  # traces that a process keeps open


@cache
def fingerprint() -> str:
    """What is installed here, in words; the same for the same sources only."""
    digest, core = hashlib.sha256(), Path(__file__).parents[2]
    files = {path.relative_to(core).as_posix(): path for path in core.rglob("*.py")}
    files = {name: path for name, path in files.items() if name.split("/")[0] not in ("policies", "traces")}
    for folder in import_module("remoe_sim.policies").__path__:  # in the package or beside it, as it was installed
        files |= {f"policies/{path.name}": path for path in Path(folder).glob("*.py")}
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes())
    return f"remoe-sim {__version__} (sources {digest.hexdigest()[:8]})"


def work(payload: bytes, wanted: str) -> list[Any] | str:
    """All results of a pickled unit, or why there are none and trying again would not help, as a worker would say it.

    wanted: the fingerprint of whoever asks.
    """
    if fingerprint() != wanted:
        return f"has {fingerprint()}, and this is {wanted}; install the same on both"
    try:
        unit: Unit = pickle.loads(payload)
        with one_thread():  # a worker has as many units at once as it has threads
            return list(unit.results(_OPEN.get(unit.subject, unit.batch)))
    except ValueError as error:
        return f"says: {error}"


class _OpenTraces:
    """The traces that were used last, for all threads of a process."""

    def __init__(self) -> None:
        self._lock, self._open = Lock(), dict[Any, OpenTrace]()

    def get(self, subject: Subject, batch: int | None) -> OpenTrace:
        about = subject.digest, subject.given, repr(subject.expert_bytes), batch
        with self._lock:  # others that want the same wait until it is open
            found = self._open.pop(about, None) or OpenTrace(subject, batch)
            self._open[about] = found
            while len(self._open) > MOST_OPEN:
                del self._open[next(iter(self._open))]
            return found


_OPEN = _OpenTraces()
