"""The moe-trace of llama.cpp: lines `layer,expert`, one per chosen expert, without column names.

    1,17
    1,3

All k experts of the first token, then of the next, layer by layer; --top-k N says what k is. The trace has no tokens,
phases or requests: a forward pass begins where the layer number does not rise, one of several tokens is a prompt.
"""

from __future__ import annotations

import re

import numpy as np

from remoe_sim.formats.assemble import Slots, assemble
from remoe_sim.formats.csv_files import WHOLE, read_csv
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import records_of_passes
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace

_COLUMNS = ("layer", "expert")
_LINE = re.compile(r"\d+,\d+")


class LlamaCpp(TraceFormat):
    name = "llamacpp"
    summary = "llama.cpp moe-trace: lines 'layer,expert' without column names; needs --top-k"
    layout = __doc__ or ""
    shape = "text"
    words = ("layer,expert",)

    def recognises(self, source: Source) -> bool:
        lines = source.head_text.splitlines()[:20]
        complete = lines if len(lines) < 20 else lines[:-1]
        return (
            bool(complete)
            and all(_LINE.fullmatch(line) for line in complete[_has_names(source) :])
            and bool(complete[_has_names(source) :])
        )

    def read(self, source: Source) -> Trace:
        k = source.given.top_k
        if k is None:
            raise source.error("the file does not say how many experts each token has; pass --top-k N")
        table = read_csv(source, _COLUMNS, int(_has_names(source)), dict.fromkeys(_COLUMNS, WHOLE))
        layer, expert = table.values["layer"], table.values["expert"]
        for name, values in table.values.items():
            if values.min() < 0:
                row = int(values.argmin())
                raise table.error(row, name, f"{values[row]} is not possible; correct it")
        begins = np.append(True, layer[1:] != layer[:-1])
        first = np.flatnonzero(begins)
        sizes = np.diff(np.append(first, layer.size))
        broken = np.flatnonzero(sizes % k)
        if broken.size:
            text = f"{sizes[broken[0]]} rows in sequence are not a multiple of {k}"
            remedy = (
                "the file seems truncated" if broken[0] == first.size - 1 and broken.size == 1 else "correct --top-k"
            )
            raise table.error(int(first[broken[0]]), "layer", f"{text} experts per token; {remedy}")
        if first.size == 1:
            begins[::k] = True
            source.note("there is one layer only, so each token is taken as a forward pass of its own")
        records = records_of_passes(source, layer[::k], begins[::k], lambda record: table.line(record * k))
        slots = Slots(np.repeat(np.arange(layer.size // k), k), expert)
        return assemble(source, records, slots, experts=source.experts(int(expert.max())), top_k=k)


def _has_names(source: Source) -> bool:
    return source.head_text.startswith(",".join(_COLUMNS))
