"""What the machine or the environment does not give, as sentences: memory, threads, settings of the compiler."""

from __future__ import annotations

import os
import re
import warnings

_NUMBA = re.compile(r"(NUMBA_\w+)")
_FEATURES = re.compile(r"([+-][\w.-]+(,|$))*")


def in_words(error: BaseException) -> str | None:
    """The sentence for an error of the machine; None for any other, whose traceback says more."""
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    detail = f" ({first})" if first else ""
    if isinstance(error, MemoryError):
        return f"memory ran out{detail}; close other programs, take a smaller part of the trace, or a larger machine"
    if isinstance(error, OverflowError):
        return f"a number is too large to compute with{detail}; give a smaller one"
    if isinstance(error, RuntimeError) and "start new thread" in first:
        return "the system lets this process start no further thread; raise its limits (ulimit -u, ulimit -v), or wait"
    found = _NUMBA.search(first)
    return f"{_told(found[1])}: {first}; correct or unset it" if isinstance(error, RuntimeError) and found else None


def check_compiler_settings() -> None:
    """ValueError for an environment variable NUMBA_… that numba cannot use; costs nothing where none is set."""
    given = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
    if not given:
        return
    if not _FEATURES.fullmatch(given.get("NUMBA_CPU_FEATURES", "")):  # the compiler would end the process
        what = "give names that begin with + or -, separated by commas, or unset it"
        raise ValueError(f"{_told('NUMBA_CPU_FEATURES')} is not possible; {what}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            import numba  # noqa: F401
        except Exception as error:
            why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            named = " or ".join(map(_told, sorted(given)))
            raise ValueError(f"numba cannot be loaded with {named} ({why}); correct or unset it") from None
    for one in said:
        found = _NUMBA.search(str(one.message))
        if found and found[1] in given:
            raise ValueError(f"{_told(found[1])} cannot be read by numba, the compiler; correct or unset it")
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _told(name: str) -> str:
    return f"environment variable {name}='{os.environ.get(name, '')}'"
