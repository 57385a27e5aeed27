"""How far a long task is: what computes says so here, and whoever shows it listens; else nothing happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """What is told of stages, one at a time; `advance` is called from any thread."""

    def begin(self, what: str, total: int | None) -> None: ...

    def advance(self, amount: int, total: int | None = None) -> None: ...

    def end(self) -> None: ...


class RunningStage:
    """A part of a task. unit: what it counts, where that is reported by `done`; else its owner calls `advance`."""

    def __init__(self, listener: Listener | None = None, unit: str | None = None) -> None:
        self._listener, self.unit, self._reached = listener, unit, 0

    def advance(self, amount: int) -> None:
        """So much more is done."""
        if self._listener is not None:
            self._listener.advance(amount)

    def reach(self, done: int, total: int) -> None:
        """So much is done, of how much."""
        if self._listener is not None:
            self._listener.advance(done - self._reached, total)
            self._reached = done


_NOBODY = RunningStage()
_listener: Listener | None = None
_running: RunningStage | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tells `listener` of the stages of everything inside."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


@contextmanager
def stage(what: str, total: int | None = None, unit: str | None = None) -> Iterator[RunningStage]:
    """One stage; those inside it belong to it and are not shown. total: how much there is to do, None if not known.

    unit: "rows" of layers that are read from a trace file, "layers" that are worked off, or "bytes" of a recording;
    what reads them says so.
    """
    global _running
    if _listener is None or _running is not None:
        yield _NOBODY
        return
    _running = RunningStage(_listener, unit)
    try:
        _listener.begin(what, total)
        yield _running
    finally:
        _running = None
        _listener.end()


def done(amount: int, unit: str) -> None:
    """Of a unit, so many were read or worked off; counted if the stage that is running counts this unit."""
    running = _running
    if running is not None and running.unit == unit:
        running.advance(amount)
