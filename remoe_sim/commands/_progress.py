"""A bar on stderr with the part that is done and the time left, where people look at it and it takes a while."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from typing import Any

PATIENCE_S = 1.0  # what takes less is not worth a bar


@contextmanager
def shown() -> Iterator[None]:
    """Shows the stages of what is done inside, if stderr is a terminal."""
    from remoe_sim.util.progress import listening

    if not sys.stderr.isatty():
        yield
        return
    with listening(_Bars()):
        yield


class _Bars:
    """One bar at a time, which appears when its stage has taken a while and goes with it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bar: Any = None
        self._timer: Timer | None = None

    def begin(self, what: str, total: int | None) -> None:
        self._what, self._total, self._done = what, total, 0
        self._timer = Timer(PATIENCE_S, self._show)
        self._timer.daemon = True
        self._timer.start()

    def advance(self, amount: int, total: int | None = None) -> None:
        with self._lock:
            self._done += amount
            self._total = self._total if total is None else total
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done, total=self._total, tail=self._tail)

    def end(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()

    @property
    def _tail(self) -> str:
        return "" if self._total is None else "left"

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[tail]}"),
        )  # fmt: skip
        bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        with self._lock:
            if self._timer is None:  # over meanwhile
                return
            self._task = bar.add_task(self._what, total=self._total, completed=self._done, tail=self._tail)
            self._bar = bar
            bar.start()
