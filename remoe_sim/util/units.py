"""Sizes and ranges as people type them, and sizes as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Several = Any  # one value, text with commas, or a sequence

_FACTORS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,  # as tools say of memory
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")
_LARGEST = 2**62
_DIGITS = 30  # of a size in any unit; more than any that is possible
_SHOWN = 60  # characters of what a user typed, in messages
_MOST_IN_RANGE = 1_000_000
MOST_TOKENS = 2**31 - 1  # of a context or a batch, the largest position of a trace
MOST_LANES = 2**16


def parse_bytes(text: str | int | float) -> int:
    """Bytes of a size such as `4000MiB`, `1.5 GB` or `4096`; KiB, MiB, GiB are powers of two, kB, MB, GB of ten; and
    K, M, G alone are powers of two, as in `16G` of memory.

    Raises ValueError for anything else, also for a negative size.
    """
    match = _SIZE.fullmatch(_text(text))
    if match is None or match[2].lower() not in _FACTORS:
        raise ValueError(
            f"'{_short(text)}' is not a size; give a number of bytes or one with a unit, such as 4000MiB or 1.5GB"
        )
    factor = _FACTORS[match[2].lower()]
    whole = match[1].partition(".")[0].lstrip("0")
    size = _LARGEST + 1
    if len(whole) <= _DIGITS:
        size = int(whole or "0") * factor if match[1].isdigit() else round(float(match[1]) * factor)
    if size > _LARGEST:
        raise ValueError(f"'{_short(text)}' is too large a size; at most {_LARGEST} bytes are possible")
    return size


def asked_bytes(text: str | int, what: str, unit: str) -> int:
    """`parse_bytes` of what a user typed; ValueError that asks for the unit where it is text of a number below 1000,
    which would be as few bytes."""
    typed = text.strip() if isinstance(text, str) else ""
    if typed.isdecimal() and len(typed) <= 3 and int(typed) > 0:
        raise ValueError(
            f"{what} '{typed}' would be {plural(int(typed), 'byte')}; give it with its unit: was {typed}{unit} meant? "
            f"({typed}B is {plural(int(typed), 'byte')})"
        )
    return parse_bytes(text)


def parse_count(text: str | int, what: str, least: int = 0, most: int | None = None) -> int:
    """A whole number from `least` to `most`, or of at most 18 digits; ValueError otherwise, naming `what`."""
    text = _text(text)
    if re.fullmatch(r"\d{19,}", text):
        raise ValueError(f"{what} '{_short(text)}' is not possible; give a whole number of at most 18 digits")
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise ValueError(f"{what} '{_short(text)}' is not possible; give a whole number that is {least} or more")
    if most is not None and int(text) > most:
        raise ValueError(f"{what} '{_short(text)}' is not possible; give a whole number from {least} to {most}")
    return int(text)


def parse_number(text: str | float, what: str, most: float = float("inf")) -> float:
    """A finite number from 0 to `most`; ValueError otherwise, naming `what`."""
    try:
        number = float(text)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0 <= number <= most or number == float("inf"):
        allowed = "that is 0 or more" if most == float("inf") else f"from 0 to {most:g}"
        raise ValueError(f"{what} '{_short(text)}' is not possible; give a number {allowed}")
    return number


def parse_ms(text: str | float, what: str) -> float:
    """Milliseconds of a time above 0 such as `150ms`, `0.15s` or a plain number of them; ValueError otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|)\s*", _text(text))
    if match is None or not 0 < float(match[1]) <= _LARGEST:
        raise ValueError(
            f"{what} '{_short(text)}' is not possible; give a time above 0 with its unit, such as 150ms or 0.15s"
        )
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def parse_range(text: str | int, what: str, least: int = 0) -> list[int]:
    """Whole numbers ≥ `least` from `8`, `4,8,16`, `4:64` or `4:64:4`; a range includes both ends."""
    numbers: list[int] = []
    for part in str(text).split(","):
        ends = [parse_count(end, what, least) for end in part.split(":")]
        if len(ends) > 3 or (len(ends) > 1 and ends[1] < ends[0]) or (len(ends) == 3 and ends[2] == 0):
            raise ValueError(f"{what} '{part}' is not a range; give a:b or a:b:step with a ≤ b and a step above 0")
        found = range(ends[0], ends[-1] + 1) if len(ends) < 3 else range(ends[0], ends[1] + 1, ends[2])
        count = (found[-1] - found[0]) // found.step + 1  # len() would not take all that can be typed
        count += len(numbers)
        if count > _MOST_IN_RANGE:
            raise ValueError(f"{what} '{part}' is {count} numbers; give a range of at most {_MOST_IN_RANGE}")
        numbers += found
    return numbers


def format_bytes(size: float) -> str:
    """A size for people: `27213.7 MiB`, `12.3 KiB`, `0 B`."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if abs(size) >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:,.0f} B"


def decimal(number: float, decimals: int = 2) -> str:
    """A number for people, `1,234.56`. What would be shown as 0 and is not gets two digits: `0.00013`."""
    if 0 < abs(number) < 0.5 * 10.0**-decimals:
        decimals = 1 - math.floor(math.log10(abs(number)))
    return f"{number:,.{decimals}f}"


def percent(part: float | None, whole: float = 1, decimals: int = 2) -> str:
    """A share for people: `47.08 %`, or `none` for None and of nothing.

    A share that is not 0 or 1 gets as many decimals as it takes to tell: `99.998 %`.
    """
    if part is None or not whole:
        return "none"
    share = part / whole
    shown = f"{100 * share:.{decimals}f}"
    while 0 < share < 1 and float(shown) in (0, 100):
        decimals += 1
        shown = f"{100 * share:.{decimals}f}"
    return f"{shown} %"


def plural(number: int, noun: str) -> str:
    """`1 request`, `8 requests`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _text(given: object) -> str:
    """What was given as text; Python makes none of whole numbers of thousands of digits."""
    if isinstance(given, int) and abs(given) > 10**400:
        return ("-" if given < 0 else "") + "9" * 400
    return str(given)


def _short(given: object) -> str:
    text = _text(given)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}…{text[-10:]}"


def rate(numerator: float, denominator: float) -> float | None:
    """The quotient, None where the denominator is 0."""
    return numerator / denominator if denominator else None


def several(given: Several) -> list[Any]:
    """Values that the user gave as one, as text with commas, or as a sequence; none for None."""
    if given is None:
        return []
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    if isinstance(given, Iterable) and not isinstance(given, Path):
        return list(given)
    return [given]
