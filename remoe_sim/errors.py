"""The exception of bad data. Bad arguments raise ValueError."""

from __future__ import annotations

import difflib
import re
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
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    more = f" (see '{command}')" if command else ""
    return ValueError(f"unknown {kind} '{given}'{hint}{'' if near else ';'} valid are {', '.join(names)}{more}")
