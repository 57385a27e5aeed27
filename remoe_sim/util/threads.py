"""Layers side by side: kernels run without the interpreter lock, so threads are all that it takes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from remoe_sim.util.memory import UNNOTICED, room
from remoe_sim.util.progress import done
from remoe_sim.util.units import parse_count

T = TypeVar("T")
VARIABLE = "REMOE_SIM_THREADS"
_MOST: ContextVar[int | None] = ContextVar("most threads", default=None)


def most_threads() -> int:
    """How many threads work side by side: as many as REMOE_SIM_THREADS says, else one per processor, or one where
    `one_thread` says so."""
    told = os.environ.get(VARIABLE)
    return _MOST.get() or (parse_count(told, VARIABLE, 1) if told else os.cpu_count() or 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Everything that this thread does meanwhile, it does alone: others like it have the other processors."""
    before = _MOST.set(1)
    try:
        yield
    finally:
        _MOST.reset(before)


def fitting(calls: int, each: int, kept: int = 0) -> int:
    """How many of these calls may run side by side, at least one: as there are threads, and as memory has room for.

    each: bytes that a call takes while it runs; kept: those of its answer until that is taken and let go.
    """
    threads = max(min(calls, most_threads()), 1)
    return fewer(threads, max(each, kept), 2 * kept)  # one answer waits, and one is in use


def fewer(many: int, each: int, beside: int = 0) -> int:
    """How many of `many` things of that many bytes each memory has room for, and for some bytes more; at least one."""
    if many < 2 or each * many + beside <= UNNOTICED:
        return many
    return int(max(1, min(many, (room() - beside) // each)))


def map_layers(function: Callable[[int], T], count: int | Sequence[int], each: int = 0, kept: int = 0) -> Iterator[T]:
    """`function(0)`, …, `function(count - 1)`, in that order, computed by as many threads as there are processors, or
    fewer where memory has no room for what they hold: `each` bytes a call, `kept` of them its answer.

    A call is for one layer, or `count` says of each call for how many.

    At most one call more than there are threads is running or waiting to be taken, and a thread that is done goes on
    though the call before it is not. An exception of a call is raised in its turn; calls that have not begun then are
    not made.
    """
    layers = [1] * count if isinstance(count, int) else count
    workers = fitting(len(layers), each, kept)
    if workers < 2:
        for index, of in enumerate(layers):
            answer = function(index)
            done(of, "layers")
            yield answer
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="layer")
    waiting: deque[tuple[Future[T], int]] = deque()
    try:
        for index, of in enumerate(layers):
            if len(waiting) > workers:
                yield _taken(waiting)
            waiting.append((pool.submit(function, index), of))
        while waiting:
            yield _taken(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(waiting: deque[tuple[Future[T], int]]) -> T:
    future, layers = waiting.popleft()
    answer = future.result()
    done(layers, "layers")
    return answer
