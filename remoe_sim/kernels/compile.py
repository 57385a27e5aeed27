"""The one place that decides how kernels are compiled and where the machine code is kept.

Numba's own cache looks only at the file a function is in, so a helper edited in another file would leave a stale
kernel. The cache directory is therefore named by a digest of every kernel source, and a change anywhere in them
starts an empty one.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
from numba import types
from numba.core import config as _config
from numba.core import event

from remoe_sim import kernel_cache
from remoe_sim.plugin_sources import is_ours

_LOCK = threading.Lock()
_HERE = Path(__file__).parent
config: Any = _config  # its settings are added when it is imported

# Signatures of the verbs that a compiled slot policy supplies; see remoe_sim.policy.SlotPolicy.
STATE = types.Array(types.int64, 2, "C")
SETUP = types.void(STATE, types.int64)
ENTRY = types.void(STATE, types.int64)
VICTIM = types.int64(STATE, types.Array(types.uint8, 1, "C"))
READ_ONLY_VICTIM = types.int64(STATE, types.Array(types.uint8, 1, "C", readonly=True))


def _sources() -> list[Path]:
    """Every file that may hold a kernel, in a fixed order."""
    import remoe_sim.policies

    files = [Path(__file__), Path(str(kernel_cache.__file__)), *sorted((_HERE / "kernels").glob("*.py"))]
    for folder in remoe_sim.policies.__path__:
        files += sorted(Path(folder).glob("*.py"))
    return files


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


class _Announcement(event.Listener):
    """Says once why the first run takes seconds, when a kernel is really compiled."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            _Announcement.said = True
            print("remoe-sim: compiling kernels, once for all commands that use them (a few seconds)", file=sys.stderr)

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())


def kernel(
    function: Callable[..., Any] | None = None, *, signature: Any = None, inline: bool = False, unfold: bool = False,
    check: bool = False, keep: bool = True,
) -> Any:  # fmt: skip
    """Compile `function` without the interpreter lock and keep the machine code on disk.

    With `signature` it is compiled at once for those types, which a verb passed to another kernel needs; with `inline`
    it becomes part of every kernel that calls it, however large it is; with `unfold` already before types are known,
    which also spares the counting of references to its arrays (and costs compile time at every call). With `check` an
    index that is out of bounds is an IndexError. Without `keep`, and where the function is in a file of somebody else,
    which may call what is in others, it is compiled in every process.
    """
    if function is None:
        return lambda f: kernel(f, signature=signature, inline=inline, unfold=unfold, check=check, keep=keep)
    folder = cache_directory() if keep and is_ours(function.__module__) else None
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
                made._cache = kernel_cache.KernelCache(function)
            if compiles and signature is not None:
                made.compile(signature)
                made.disable_compile()
            return made
        finally:
            config.CACHE_DIR = before


def bound(function: FunctionType, verbs: dict[str, Any], name: str) -> Any:
    """`function` with its global names `verbs` meaning these functions; neither is compiled here.

    A kernel made of it calls functions that are known when it is compiled, so they are inlined; calls of functions that
    it is given as arguments make a loop half as fast. `name` tells it apart from others where machine code is kept.
    """
    made = FunctionType(function.__code__, {**function.__globals__, **verbs}, name)
    made.__module__, made.__qualname__ = function.__module__, name
    return made
