"""How kernels are compiled, and where the machine code is kept."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils, event
from numba.core import config as _config
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic, overload

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
    there) only to compile.

    What several processes need at once is compiled by one of them; the others wait for what it keeps.
    """

    said = False

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        numbas = self._cache_file
        self._cache_file = KernelFile(self._cache_path, self._impl.filename_base, numbas._source_stamp)
        self._holds = 0

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
            if found is not None:
                return found
        self._hold()
        try:
            found = super().load_overload(sig, target_context)
        except BaseException:
            self.release()
            raise
        if found is not None:
            self.release()
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
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
        finally:
            self.release()

    def _hold(self) -> None:
        """Keep other processes from compiling the function; go on without that where it cannot be had."""
        try:
            _lock_of(self._cache_file._index_path).acquire(timeout=PATIENCE)
        except (OSError, NotImplementedError):
            return
        self._holds += 1

    def release(self) -> None:
        """Let other processes go on: the function is kept, or cannot be compiled."""
        if self._holds:
            self._holds -= 1
            _lock_of(self._cache_file._index_path).release()


@cache
def _lock_of(index: str) -> Any:
    """The lock of a function, one in a process, which can take it again while it has it."""
    from filelock import FileLock  # only compiling needs it

    return FileLock(f"{index}.lock")


if hasattr(os, "register_at_fork"):  # a lock belongs to the process that made it
    os.register_at_fork(after_in_child=_lock_of.cache_clear)

PATIENCE = 300  # seconds that a process waits for another, which may have been stopped
_LOCK = threading.Lock()
_HERE = Path(__file__).parents[1]
config: Any = _config  # its settings are added when it is imported

# Signatures of the verbs that a compiled slot policy supplies; see remoe_sim.policy.SlotPolicy.
STATE = types.Array(types.int64, 2, "C")
SETUP = types.void(STATE, types.int64)
ENTRY = types.void(STATE, types.int64)
VICTIM = types.int64(STATE, types.Array(types.uint8, 1, "C"))
READ_ONLY_VICTIM = types.int64(STATE, types.Array(types.uint8, 1, "C", readonly=True))


def _sources() -> list[Path]:
    """Every file that may hold a kernel, in a fixed order."""
    files = sorted((_HERE / "kernels").glob("*.py"))
    for folder in import_module("remoe_sim.policies").__path__:
        files += sorted(Path(folder).glob("*.py"))
    return files


@lru_cache(maxsize=1)
def _covered() -> frozenset[str]:
    """Files whose functions may be kept, for the digest changes with them."""
    return frozenset(map(str, _sources()))


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Hexadecimal digest of all kernel sources and the compiler's version: the name of the cache directory."""
    digest = hashlib.sha256(numba.__version__.encode())
    for file in _sources():
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}-{threading.get_ident()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


@lru_cache(maxsize=1)
def cache_directory() -> Path | None:
    """Where compiled kernels are kept; None when no place is writable (then each process compiles anew).

    `REMOE_SIM_CACHE_DIR` if it is set, else beside the installed package, else the user's cache directory.
    """
    chosen = os.environ.get("REMOE_SIM_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "remoe-sim"
    candidates = [Path(chosen)] if chosen else [_HERE / "__pycache__" / "kernels", user]
    for base in candidates if user.is_absolute() else candidates[:1]:  # who has no home has no cache there
        if _usable(base / source_digest()):
            return base / source_digest()
    return None


class _Compiling(event.Listener):
    """Says why a first run takes seconds, when a kernel is really compiled, and what: once in a process, and once for
    all that keep kernels in the same place. Other processes need not wait for one that cannot be compiled."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            _Compiling.said = True
            folder = cache_directory()
            mark = None if folder is None else folder / "told"
            if mark is None or not mark.exists():
                name = event.data["dispatcher"].py_func.__name__
                print(
                    f"remoe-sim: compiling kernels ({name} and others), which are kept: each command takes seconds "
                    "longer the first time; remoe-sim doctor --compile makes all at once",
                    file=sys.stderr,
                )
            if mark is not None:
                with suppress(OSError):
                    mark.touch()

    def on_end(self, event: Any) -> None:
        kept = event.data["dispatcher"]._cache
        if event._exc_details is not None and isinstance(kept, KernelCache):  # `is_failed` says the opposite
            kept.release()


event.register("numba:compile", _Compiling())


def kernel(
    function: Callable[..., Any] | None = None, *, signature: Any = None, inline: bool = False, unfold: bool = False,
    check: bool = False, keep: bool = True,
) -> Any:  # fmt: skip
    """Compile `function` without the interpreter lock and keep the machine code on disk.

    With `signature` it is compiled at once for those types, which a verb passed to another kernel needs; with `inline`
    it becomes part of every kernel that calls it, however large it is; with `unfold` already before types are known,
    which also spares the counting of references to its arrays (and costs compile time at every call). With `check` an
    index out of bounds is an IndexError. Without `keep`, and where the function is in a file that the digest does not
    cover, which may call what is in others, it is compiled in every process.
    """
    if function is None:
        return lambda f: kernel(f, signature=signature, inline=inline, unfold=unfold, check=check, keep=keep)
    folder = cache_directory() if keep and function.__code__.co_filename in _covered() else None
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    options |= {"forceinline": True} if inline else {}
    options |= {"inline": "always"} if unfold else {}
    options |= {"boundscheck": True} if check else {}
    with _LOCK:
        before = config.CACHE_DIR
        try:
            made: Any = numba.njit(**options)(function)
            compiles = made is not function  # not where compiling is switched off
            if compiles and folder is not None:
                config.CACHE_DIR = str(folder)
                made._cache = KernelCache(function)
            if compiles and signature is not None:
                made.compile(signature)
                made.disable_compile()
            return made
        finally:
            config.CACHE_DIR = before


def with_checks(made: Any, function: Callable[..., Any]) -> Any:
    """Compile `function` as the kernel `made` is, but with bounds checks, in every process."""
    options = {name: value for name, value in made.targetoptions.items() if name != "nopython"}
    return numba.njit(**{**options, "boundscheck": True})(function)


def bound(function: FunctionType, verbs: dict[str, Any], name: str) -> Any:
    """`function` with its global names `verbs` meaning these functions; neither is compiled here.

    A kernel made of it calls functions that are known when it is compiled, so they are inlined; calls of functions that
    it is given as arguments make a loop half as fast. `name` tells it apart from others where machine code is kept.
    """
    made = FunctionType(function.__code__, {**function.__globals__, **verbs}, name)
    made.__module__, made.__qualname__ = function.__module__, name
    return made


def plain(kernel: Any) -> Any:
    """A kernel in plain Python, with the helpers from its own file in plain Python too.

    It can then be given functions that are not compiled, and hand them to its helpers.
    """
    function = getattr(kernel, "py_func", kernel)
    known = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    helpers = {
        name: plain(value)
        for name, value in known.items()
        if isinstance(value, Dispatcher) and value.py_func.__module__ == function.__module__
    }
    return bound(function, helpers, function.__name__)


def borrowed(array):
    """The same array, or tuple of arrays, with references not counted, for as long as `array` itself is in use."""
    return array


def _without_owners(context: Any, builder: Any, of: Any, value: Any) -> Any:
    if isinstance(of, types.Array):
        struct = cgutils.create_struct_proxy(of)(context, builder, value)
        struct.meminfo = cgutils.get_null_value(struct.meminfo.type)
        return struct._getvalue()
    if isinstance(of, types.BaseTuple):
        fields: Any = of
        for place, field in enumerate(fields.types):
            inner = _without_owners(context, builder, field, builder.extract_value(value, place))
            value = builder.insert_value(value, inner, place)
    return value


@intrinsic
def _without_owner(context, array):
    return array(array), lambda context, builder, signature, given: _without_owners(context, builder, array, given[0])


@overload(borrowed)
def _compiled(array):
    return lambda array: _without_owner(array)


def lowest_bit(word):
    """The place of the lowest bit that is set; some is."""
    return (int(word) & -int(word)).bit_length() - 1


@intrinsic
def _trailing_zeros(context, word):
    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))

    return word(word), build


@overload(lowest_bit)
def _compiled_lowest(word):
    return lambda word: np.int64(_trailing_zeros(word))
