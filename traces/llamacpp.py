"""The moe-trace of llama.cpp: lines `layer,expert`, one per chosen expert, without column names.

    1,17
    1,3

All k experts of the first token, then of the next, layer by layer; --top-k N says what k is. The trace has no tokens,
phases or requests: a forward pass begins where the layer number does not rise, one of several tokens is a prompt.
"""

from __future__ import annotations

import re

from remoe_sim.formats.csv_files import WHOLE, read_csv
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import trace_of_activations
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
    writer = "llama.cpp `moe-trace` CSV"
    kept = "prompts cut at the last layer"
    lost = "k (`--top-k`); passes and requests found by layer order"
    sure = "code that writes it"

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
        return trace_of_activations(
            source, layer, expert, k, table.line, lambda row, text: table.error(row, "layer", text)
        )


def _has_names(source: Source) -> bool:
    return source.head_text.startswith(",".join(_COLUMNS))
