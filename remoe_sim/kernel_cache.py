"""Where machine code is kept, safe against what happens to files: full disks, damage, and processes side by side.

Numba's own cache ends a program that finds a truncated file or a full disk, takes damaged machine code as it is, and
two processes that compile at a time may put the code of one signature under the name of another. Here each file has a
checksum and is taken for missing where that does not fit, one process writes at a time, and what cannot be kept is
compiled again next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime.nrt import rtsys

_LENGTH = hashlib.sha256().digest_size


class KernelFile(IndexDataCacheFile):
    """Numba's files of one function, with checksums."""

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, names = pickle.loads(_checked(self._index_path))
        except OSError:
            return {}
        return names if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, names: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, names))

    def _load_data(self, name: str) -> Any:
        return pickle.loads(_checked(self._data_path(name)))  # OSError means to Numba that there is none

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _write(self, path: str, content: Any) -> None:
        data = self._dump(content)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(data).digest() + data)


def _checked(path: str) -> bytes:
    """What a file holds behind its checksum; OSError if it is not there, or is not what was written."""
    content = Path(path).read_bytes()
    if hashlib.sha256(content[_LENGTH:]).digest() != content[:_LENGTH]:
        raise OSError(f"{path} is damaged")
    return content[_LENGTH:]


class KernelCache(FunctionCache):
    """Numba's cache of one function, which never ends a program, and loads all that compiling needs (SciPy, if it is
    there) only to compile."""

    said = False

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        numbas = self._cache_file
        self._cache_file = KernelFile(self._cache_path, self._impl.filename_base, numbas._source_stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
            if found is not None:
                return found
        return super().load_overload(sig, target_context)

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            with _alone(Path(self._cache_path)):
                super().save_overload(signature, data)
        except OSError as error:
            if not KernelCache.said:
                KernelCache.said = True
                why = os.strerror(error.errno).lower() if error.errno else str(error)
                print(
                    f"remoe-sim: compiled kernels cannot be kept in '{self._cache_path}' ({why}), so every command "
                    "compiles them anew; set REMOE_SIM_CACHE_DIR to a folder with room",
                    file=sys.stderr,
                )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, which waits for others; on a system without such locks it does not."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
