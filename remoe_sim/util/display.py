"""How answers look: in notebooks, and the stamp of those in JSON."""

from __future__ import annotations

import shutil
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LONG = 60  # characters of a text that stands below the table, not in it
MOST_ROWS = 40  # of a table in a shell or a notebook


class Shown:
    """An answer that is a table. Its dataclass is made with repr=False, as that would print every field of every part.

    `to_frame` has all; what is shown leaves out columns without a value, and says once what is the same in all rows.
    """

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        raise NotImplementedError(f"{type(self).__name__} must define to_frame()")

    def _sentence(self) -> str:
        """What stands above the table."""
        return ""

    def __repr__(self) -> str:
        table, below = compact(self.to_frame())
        width = shutil.get_terminal_size().columns
        text = table.to_string(float_format=_number, line_width=width, **_look(table))
        return "\n".join(part for part in (self._sentence(), text if table.size else "", *below) if part)

    def _repr_html_(self) -> str:
        table, below = compact(self.to_frame())
        text = str(table.to_html(float_format=_number, **_look(table)))  # it escapes
        parts = [f"<p>{escape(part)}</p>" for part in (self._sentence(), *below) if part]
        above = bool(self._sentence())
        return "".join([*parts[:above], *([text] if table.size else []), *parts[above:]])


def compact(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A table that fits on a page, and what is said below it. One row is shown as a column."""
    import pandas as pd

    frame = frame.loc[:, frame.notna().any()]
    long = [name for name in frame if any(_long(value) for value in frame[name])]
    notes = [f"{name}: {text}" for name in long for text in dict.fromkeys(map(_text, frame[name].dropna())) if text]
    frame = frame.drop(columns=long)
    if len(frame) == 1:
        return pd.DataFrame({"": [_cell(frame[name].iloc[0]) for name in frame]}, index=list(frame)), notes
    same = [name for name in frame if frame[name].notna().all() and frame[name].map(str).nunique() == 1]
    facts = ", ".join(f"{name} {_cell(frame[name].iloc[0])}" for name in same)
    return frame.drop(columns=same), [*([f"in all rows: {facts}"] if same else []), *notes]


def _look(table: pd.DataFrame) -> dict[str, Any]:
    """A single row stands on its side: its names are the index, there are no headings, and all of it is shown."""
    on_side = list(table.columns) == [""]
    return {"index": on_side, "header": not on_side, "na_rep": "", "max_rows": None if on_side else MOST_ROWS}


def _long(value: Any) -> bool:
    return isinstance(value, list | tuple | dict) or (isinstance(value, str) and len(value) > LONG)


def _text(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell(value: Any) -> str:
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def stamp(schema: str) -> dict[str, str]:
    """The schema, and the version that answered."""
    from remoe_sim.util.version import __version__

    return {"schema": schema, "version": __version__}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, names joined by `_`."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        row |= flat(value, f"{prefix}{name}_") if isinstance(value, dict) else {prefix + name: value}
    return row
