"""A page of HTML in one file: what it may hold, and the template that draws it. All text in it is escaped."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.trace.trace import PHASES, Trace
from remoe_sim.util.units import percent

if TYPE_CHECKING:
    from remoe_sim.reports.charts import Chart


def base_name(path: str) -> str:
    """What a page calls a file: a page is sent to others, whom folders are none of their business."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


@dataclass(frozen=True)
class Table:
    """Rows that sort by any column. A number sorts by its value and is shown as its column's format says.

    columns: name and format (`,` or `.2f` as in Python, `%` for a fraction shown in per cent, `` for text); a cell that
    is None is shown as `missing`.
    """

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    note: str = ""
    missing: str = "none"
    kind: str = field(default="table", init=False)

    def shown(self, value: Any, form: str) -> str:
        if value is None:
            return self.missing
        if isinstance(value, str) or not form:
            return str(value)
        return percent(value) if form == "%" else format(value, form)


@dataclass(frozen=True)
class Facts:
    """Names, values, and a sentence about each."""

    rows: Sequence[tuple[str, str, str]]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Charts:
    """Figures side by side, where there is room."""

    charts: Sequence[Chart]
    kind: str = field(default="charts", init=False)


@dataclass(frozen=True)
class RoutingMap:
    """What `remoe_sim.reports.page` gives."""

    data: dict[str, Any]
    kind: str = field(default="map", init=False)


@dataclass(frozen=True)
class Text:
    """A paragraph; strong: a word before it; code: lines to be copied."""

    text: str
    strong: str = ""
    code: bool = False
    kind: str = field(default="text", init=False)


Part = Table | Facts | Charts | RoutingMap | Text


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Page:
    """A report: `html` is the whole file, which needs no other and no network."""

    title: str
    subtitle: str
    sections: Sequence[Section]

    @property
    def html(self) -> str:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        loader = PackageLoader("remoe_sim.reports", "templates")
        environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        return environment.get_template("page.html").render(page=self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it appears whole or not at all."""
        from remoe_sim.util.files import replacing

        with replacing(path) as beside:
            beside.write_text(self.html, encoding="utf-8")

    def __repr__(self) -> str:
        return f"<Page '{self.title}': {', '.join(section.title for section in self.sections)}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f'<iframe srcdoc="{escape(self.html)}" style="width:100%;height:40em;border:0"></iframe>'


MOST_TOKENS, MOST_IDS = 1024, 300_000  # 0.8 MB in the page
NONE = 0xFFFF  # stands for a slot that is not there


def routing_map(trace: Trace) -> dict[str, Any]:
    """What the page's script draws: `ids` is base64 of little-endian uint16 [layer][token][slot], NONE for no expert.

    tokens: how many, the first rows of the trace; of: how many there are; request, position, phase: of each token.
    """
    tokens = min(trace.tokens, MOST_TOKENS, max(MOST_IDS // sum(trace.model.top_k), 1))
    layers = []
    for index in range(trace.moe_layers):
        decisions = trace.decisions(index)
        ids = decisions.experts[:tokens].astype("<u2")
        if decisions.valid is not None:
            ids[~decisions.valid[:tokens]] = NONE
        if decisions.routed is not None:
            ids[~decisions.routed[:tokens]] = NONE
        layers.append(ids.tobytes())
    return {
        "tokens": tokens,
        "of": trace.tokens,
        "layers": [
            {"number": number, "experts": experts, "top_k": top_k}
            for number, experts, top_k in zip(trace.layer_numbers, trace.model.experts, trace.model.top_k, strict=True)
        ],
        "request": np.asarray(trace.request[:tokens]).tolist(),
        "position": np.asarray(trace.position[:tokens]).tolist(),
        "phase": [PHASES[code] for code in trace.phase[:tokens]],
        "ids": base64.b64encode(b"".join(layers)).decode(),
    }
