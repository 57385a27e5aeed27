"""Errors in one sentence, and what the machine or the environment does not give."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterable

# what moves the cursor, ends a line, turns the direction of writing or cannot be encoded
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str) -> str:
    """The text with escapes such as \\n for what does not belong into a line."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TraceError(ValueError):
    """A trace or an input file that cannot be used; the message is one sentence with file, row and column."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def unknown(kind: str, given: str, valid: Iterable[str], command: str = "") -> ValueError:
    """A ValueError that names what was given, all valid names and the nearest one."""
    names = sorted(valid)
    near = [name for name in difflib.get_close_matches(given, names, n=5) if _alike(given, name)]
    hint = f"; did you mean '{near[0]}'?" if near else ""
    more = f" (see '{command}')" if command else ""
    return ValueError(f"unknown {kind} '{given}'{hint}{'' if near else ';'} valid are {', '.join(names)}{more}")


def _alike(given: str, name: str) -> bool:
    """Whether long numbers of both begin alike: an rtx-2050 is near an rtx-2060, not near an rtx-5090."""
    numbers = (re.findall(r"\d{3,}", text) for text in (given, name))
    return all(one[:2] == other[:2] for one, other in zip(*numbers, strict=False))


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
