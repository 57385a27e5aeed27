"""The exception of bad data. Bad arguments raise ValueError."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TraceError(ValueError):
    """A trace or an input file that cannot be used; the message is one sentence with file, row and column."""


def unknown(kind: str, given: str, valid: Iterable[str], command: str = "") -> ValueError:
    """A ValueError that names what was given, all valid names and the nearest one."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    more = f" (see '{command}')" if command else ""
    return ValueError(f"unknown {kind} '{given}'{hint}{'' if near else ';'} valid are {', '.join(names)}{more}")
