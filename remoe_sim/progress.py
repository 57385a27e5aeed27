"""How far a long task is: what computes says so here, and whoever shows it listens; else nothing happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """What is told of stages, one at a time; `advance` is called from any thread."""

    def begin(self, what: str, total: int | None) -> None: ...

    def advance(self, amount: int) -> None: ...

    def end(self) -> None: ...


class Stage:
    """A part of a task, in whatever units its total is in."""

    def __init__(self, listener: Listener | None = None, by_rows: bool = False) -> None:
        self._listener, self.by_rows = listener, by_rows

    def advance(self, amount: int) -> None:
        if self._listener is not None:
            self._listener.advance(amount)


_NOBODY = Stage()
_listener: Listener | None = None
_running: Stage | None = None


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
def stage(what: str, total: int | None = None, by_rows: bool = False) -> Iterator[Stage]:
    """One stage; those inside it belong to it and are not shown. total: how much there is to do, None if not known.

    by_rows: it advances by the rows of layers that are read meanwhile (`rows_read`), and nothing else is to be said.
    """
    global _running
    if _listener is None or _running is not None:
        yield _NOBODY
        return
    _running = Stage(_listener, by_rows)
    try:
        _listener.begin(what, total)
        yield _running
    finally:
        _running = None
        _listener.end()


def rows_read(rows: int) -> None:
    """So many rows of one layer were read from a file."""
    running = _running
    if running is not None and running.by_rows:
        running.advance(rows)
