"""Expert files on disk, buffers for what is read of them, and the threads that read past the page cache."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 4096
SHIFT = 32  # where tensors that are not aligned begin after a block, as GGUF aligns them
CHUNK = 2**24  # bytes written at once
Matrix = npt.NDArray[Any]


@dataclass(frozen=True)
class Tensors:
    """How an expert lies in the file of its layer: gate and up [width, hidden], down [hidden, width], one after the
    other; aligned: each begins with a block, else SHIFT bytes later, so that a direct read covers a block more."""

    hidden: int
    width: int
    dtype: npt.DTypeLike
    aligned: bool

    @property
    def bytes(self) -> int:
        """Of one tensor: whole blocks."""
        size = self.hidden * self.width * np.dtype(self.dtype).itemsize
        if size % BLOCK:
            raise ValueError(f"tensors of {size} bytes are no whole blocks; give sizes that make a multiple of {BLOCK}")
        return size

    @property
    def read_bytes(self) -> int:
        """Of the direct read that covers one tensor."""
        return self.bytes + (0 if self.aligned else BLOCK)

    def offset(self, expert: int, part: int) -> int:
        """Where the read of a tensor begins in the file."""
        return (3 * expert + part) * self.bytes

    def matrices(self, buffer: mmap.mmap) -> tuple[Matrix, ...]:
        """The three matrices in a buffer of three reads, nothing copied."""
        shapes = ((self.width, self.hidden), (self.width, self.hidden), (self.hidden, self.width))
        skip = 0 if self.aligned else SHIFT
        return tuple(
            np.ndarray(shape, self.dtype, buffer, part * self.read_bytes + skip) for part, shape in enumerate(shapes)
        )


@contextmanager
def expert_files(folder: Path, tensors: Tensors, layers: int, experts: int) -> Iterator[list[int]]:
    """A file per layer, full of random weights, opened for direct reads and unlinked at once, so nothing can be left.

    Raises OSError where the file system refuses direct reads.
    """
    source, opened = np.random.default_rng(0), []
    try:
        for layer in range(layers):
            path = folder / f".emulator-layer-{layer:02d}"
            try:
                _write(path, source, 3 * experts * tensors.bytes + (0 if tensors.aligned else BLOCK), tensors)
                opened.append(os.open(path, os.O_RDONLY | os.O_DIRECT))
            finally:
                path.unlink(missing_ok=True)
        os.preadv(opened[0], [mmap.mmap(-1, BLOCK)], 0)
        yield opened
    finally:
        for file in opened:
            os.close(file)


def _write(path: Path, source: np.random.Generator, size: int, tensors: Tensors) -> None:
    with path.open("wb", buffering=0) as file:
        if not tensors.aligned:
            file.write(bytes(SHIFT))
        left = size - file.tell()
        while left:
            numbers = source.integers(-127, 128, min(CHUNK, left), np.int8)
            if np.dtype(tensors.dtype).kind == "f":  # as bytes they would be no finite numbers
                numbers = (numbers[: -(-numbers.size // 4)] / np.float32(64)).astype(tensors.dtype).view(np.int8)
            left -= file.write(numbers[:left].data)
        os.fsync(file.fileno())


class Slot:
    """A place for one expert in memory: views of its three reads, and its matrices."""

    def __init__(self, number: int, tensors: Tensors) -> None:
        buffer = mmap.mmap(-1, 3 * tensors.read_bytes)
        np.frombuffer(buffer, np.uint8)[::BLOCK] = 1  # the system gives the memory now, not during the first read
        self.number = number
        whole, size = memoryview(buffer), tensors.read_bytes
        self.views = [whole[part * size : (part + 1) * size] for part in range(3)]
        self.matrices = tensors.matrices(buffer)


class Readers:
    """Threads, one per lane, that take reads from one queue in the order in which they were asked for."""

    def __init__(self, files: list[int], tensors: Tensors, lanes: int) -> None:
        self.tensors, self.lanes, self.bytes_read = tensors, lanes, 0
        self._files = files
        self._asked: SimpleQueue[tuple[int, int, memoryview, int] | None] = SimpleQueue()
        self._done: SimpleQueue[int | BaseException] = SimpleQueue()
        self._left: dict[int, int] = {}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(lanes)]
        for thread in self._threads:
            thread.start()

    def ask(self, layer: int, expert: int, slot: Slot) -> None:
        """Begin to read gate, up and down of an expert into a slot."""
        self._left[slot.number] = 3
        for part, view in enumerate(slot.views):
            self._asked.put((self._files[layer], self.tensors.offset(expert, part), view, slot.number))

    def wait(self, slot: Slot) -> None:
        """Until all of the slot's reads are there. Raises what a read raised."""
        while self._left.get(slot.number):
            done = self._done.get()
            if isinstance(done, BaseException):
                raise done
            self._left[done] -= 1
            self.bytes_read += self.tensors.read_bytes

    def close(self) -> None:
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._asked.get()) is not None:
            file, offset, view, number = job
            try:
                if os.preadv(file, [view], offset) < len(view):
                    raise OSError("a file of experts is shorter than it was written")
                self._done.put(number)
            except BaseException as error:  # the engine raises it
                self._done.put(error)
