"""Write the table of formats in docs/formats.md, made from the code: `python -m docs.site.formats`."""

from __future__ import annotations

from pathlib import Path

from remoe_sim.formats.format import PACKAGE, TraceFormat
from remoe_sim.util.plugins import plugins

PAGE = Path(__file__).resolve().parents[1] / "formats.md"
HEAD = "| format | written by | kept | lost or assumed | known from |\n|---|---|---|---|---|\n"
_OLD_HEAD = "| format | written by |"


def table() -> str:
    """A row for each format, in the order of their names."""
    rows = (
        f"| `{name}` | {one.writer} | {one.kept} | {one.lost} | {one.sure} |\n"
        for name, one in plugins(PACKAGE, TraceFormat).items()
    )
    return HEAD + "".join(rows)


def in_page(text: str) -> str:
    """The page with the table of today."""
    begin = text.index(_OLD_HEAD)
    end = text.index("\n\n", begin) + 1
    return text[:begin] + table() + text[end:]


if __name__ == "__main__":
    PAGE.write_text(in_page(PAGE.read_text("utf-8")), "utf-8")
