"""Cards: TOML files of facts, each with its status and source."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from remoe_sim.util.errors import unknown
from remoe_sim.util.input_files import read_text

STATUSES = ("verified", "verified-secondary", "derived", "measured", "fitted", "assumed", "unverified")
DOUBTFUL = ("assumed", "unverified")  # what uses such a number says so
FOLDERS = {  # of the cards of each kind
    "model": "models/cards", "device": "devices/cards", "host": "devices/hosts", "storage": "devices/storages",
    "engine": "devices/engines",
}  # fmt: skip
LISTED = {"storage": "storage"}  # what `remoe-sim list` calls a kind, where that is not its plural
MOST = 10**24  # of a number of a card; no byte, operation or second counts so far
_FACT_KEYS = {"value", "status", "source"}


@dataclass(frozen=True)
class Fact:
    """A value of a card. status: one of STATUSES; source: where it is written, or how it was found."""

    value: Any
    status: str
    source: str

    @property
    def doubtful(self) -> bool:
        """Whether an output that uses the value must say that nobody has checked it."""
        return self.status in DOUBTFUL


def card_names(kind: str) -> list[str]:
    """Names of the cards that come with the package, sorted; kind is a key of FOLDERS."""
    return sorted(path.stem for path in _folder(kind).glob("*.toml"))


_MAKERS = {
    "nvidia",
    "geforce",
    "amd",
    "radeon",
    "apple",
    "intel",
    "qualcomm",
    "tesla",
    "the",
    "gpu",
    "cpu",
    "with",
    "soc",
}


def _words(text: str) -> frozenset[str]:
    """The words and numbers of a name, without its maker: rtx, 4090 for "NVIDIA GeForce RTX4090"."""
    return frozenset(re.findall(r"\d+(?:\.\d+)?|[a-z]+", text.lower())) - _MAKERS


def spelled(given: str, names: Sequence[str]) -> str | None:
    """The name that a spelling means, such as "RTX 4090" or "m2 ultra"; None where none or several fit equally.

    All words of the spelling are in the name, and of such names the one with the fewest other words counts.

    >>> spelled("NVIDIA GeForce RTX 4090", ["rtx-4090", "rtx-4090-pcie3"])
    'rtx-4090'
    """
    words = _words(given)
    fitting = sorted((len(_words(name) - words), name) for name in names if words and words <= _words(name))
    if not fitting or (len(fitting) > 1 and fitting[0][0] == fitting[1][0]):
        return None
    return fitting[0][1]


def is_path(name_or_path: str | Path) -> bool:
    """Whether a user means a file of their own rather than the name of a card."""
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(".toml")


def read_card(kind: str, name_or_path: str | Path) -> tuple[str, dict[str, Any]]:
    """The name and the content of a card; the name is that of its file without `.toml`.

    kind is a key of FOLDERS; of parts of a machine other spellings of a name do too, see `spelled`; anything with a
    slash or that ends in `.toml` is a user's own file. Raises ValueError, in one sentence, for an unknown name (with
    all valid ones) and for a file that is missing or no TOML.
    """
    path = Path(name_or_path)
    if not is_path(name_or_path):
        names = card_names(kind)
        meant = None if str(name_or_path) in names or kind == "model" else spelled(str(name_or_path), names)
        if meant is not None:
            name_or_path = meant
        if str(name_or_path) not in names:
            works = (
                "a config.json, a GGUF file or a card works too, and hf://org/name"
                if kind == "model"
                else "a card works too"
            )
            other = f"; the path of {works}"
            raise ValueError(f"{unknown(kind, str(name_or_path), names, f'remoe-sim list {listed(kind)}')}{other}")
        path = _folder(kind) / f"{name_or_path}.toml"
    try:
        text = read_text(path, f"{kind} card")
    except OSError as error:
        raise ValueError(
            f"{kind} card '{path}' cannot be read ({error.strerror or error}); give a name that 'remoe-sim list "
            f"{listed(kind)}' shows or the path of a TOML file"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{kind} card '{path}' is no UTF-8 text; give the path of a TOML file") from None
    try:
        return path.name.removesuffix(".toml"), tomllib.loads(text)
    except ValueError as error:  # also of a number with thousands of digits
        raise ValueError(f"{kind} card '{path}' is no valid TOML: {error}; correct the file") from None


def facts(
    table: Mapping[str, Any],
    required: Iterable[str],
    optional: Iterable[str] = (),
    *,
    where: str = "card",
    plain: tuple[str, str] | None = None,
) -> dict[str, Fact]:
    """The facts of one table of a card by name; names carry their units, so an unknown one is refused with the nearest.

    where: what messages call the table; plain: status and source of values that are written without them, otherwise
    each value has to bring its own. Optional names that are not there are left out. Raises ValueError for a missing or
    unknown name, an unknown status, an empty source and numbers that are negative or not finite.
    """
    required = list(required)
    valid = [*required, *optional]
    for name in table:
        if name not in valid:
            raise ValueError(f"{where}: {unknown('entry', name, valid)}")
    for name in required:
        if name not in table:
            raise ValueError(f"{where}: '{name}' is missing; give it as {_form(name, plain)}")
    return {name: _fact(name, table[name], where, plain) for name in valid if name in table}


def _fact(name: str, entry: Any, where: str, plain: tuple[str, str] | None) -> Fact:
    if not isinstance(entry, dict):
        if plain is None:
            raise ValueError(f"{where}: '{name}' says nothing of where it comes from; write {_form(name, plain)}")
        entry = {"value": entry, "status": plain[0], "source": plain[1]}
    if set(entry) != _FACT_KEYS:
        raise ValueError(f"{where}: '{name}' has {', '.join(sorted(entry)) or 'nothing'}; write {_form(name, None)}")
    if entry["status"] not in STATUSES:
        raise ValueError(f"{where}: '{name}': {unknown('status', str(entry['status']), STATUSES)}")
    if not isinstance(entry["source"], str) or not entry["source"].strip():
        raise ValueError(f"{where}: '{name}' has an empty source; say where the number is written or how it was found")
    _check_numbers(name, entry["value"], where)
    return Fact(entry["value"], entry["status"], entry["source"])


def _check_numbers(name: str, value: Any, where: str) -> None:
    if isinstance(value, list):
        for one in value:
            _check_numbers(name, one, where)
    elif isinstance(value, int) and abs(value) > MOST:
        raise ValueError(f"{where}: '{name}' is above {MOST}; give a smaller number")
    elif isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{where}: '{name}' is {value}; give a number that is 0 or more")


def _form(name: str, plain: tuple[str, str] | None) -> str:
    return f"{name} = …" if plain else f'{name} = {{ value = …, status = "{STATUSES[0]}", source = "…" }}'


def listed(kind: str) -> str:
    """What `remoe-sim list` calls the cards of a kind."""
    return LISTED.get(kind, f"{kind}s")


def _folder(kind: str) -> Path:
    if kind not in FOLDERS:
        raise unknown("kind of card", kind, FOLDERS)
    return Path(__file__).parents[1] / FOLDERS[kind]


def card_text(content: Mapping[str, Any]) -> str:
    """TOML of texts, numbers, facts (as dictionaries, one line each) and tables of facts, in that order."""
    tables = {name: value for name, value in content.items() if _is_table(value)}
    lines = [f"{name} = {_value(value)}" for name, value in content.items() if name not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a file that appears whole or not at all. Raises OSError if the place is not writable."""
    from remoe_sim.util.files import replacing

    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" not in value


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, int):
        return str(int(value))
    number = repr(float(value))
    return f"{Decimal(number).normalize():e}" if abs(value) >= 1e6 else number
