"""Layers side by side: kernels run without the interpreter lock, so threads are all that it takes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from remoe_sim.progress import done

T = TypeVar("T")
_MOST: ContextVar[int | None] = ContextVar("most threads", default=None)


def most_threads() -> int:
    """How many threads work side by side: one per processor, or one where `one_thread` says so."""
    return _MOST.get() or os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Everything that this thread does meanwhile, it does alone: others like it have the other processors."""
    before = _MOST.set(1)
    try:
        yield
    finally:
        _MOST.reset(before)


def map_layers(function: Callable[[int], T], count: int | Sequence[int]) -> Iterator[T]:
    """`function(0)`, …, `function(count - 1)`, in that order, computed by as many threads as there are processors.

    A call is for one layer, or `count` says of each call for how many.

    At most one call more than there are threads is running or waiting to be taken: memory stays bounded by a layer per
    thread and one more, and a thread that is done goes on though the call before it is not. An exception of a call is
    raised in its turn; calls that have not begun then are not made.
    """
    layers = [1] * count if isinstance(count, int) else count
    workers = min(len(layers), most_threads())
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
