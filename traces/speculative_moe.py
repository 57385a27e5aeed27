"""The routing of speculative-moe's profiler: JSON Lines, one object per token and layer.

    {"dataset": "humaneval", "problem_id": 0, "layer": 0, "experts": [6, 5], "gating_probs": [0.7, 0.3], "token_idx": 0}
    {"dataset": "humaneval", "problem_id": 0, "layer": 0, "token_pos": 0, "experts": [5, 2], "gating_probs": [...]}

The profiler drops tokens whose probabilities are exactly 0.5 and 0.5, and numbers the rest of the layer anew. Layers
are then ragged, and after a drop a layer is some tokens ahead of the others; what is missing is counted in the notes.
In the second variant token_pos is the row in the forward pass: the first is the prompt, others have a token each.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.assemble import Records, assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import first_fields, read_objects
from remoe_sim.formats.records import DecisionRows
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, PREFILL, Trace
from remoe_sim.util.arrays import Ints


class SpeculativeMoe(TraceFormat):
    name = "speculative-moe"
    summary = "speculative-moe JSON Lines: problem_id, layer, experts, gating_probs; ragged layers are counted"
    layout = __doc__ or ""
    shape = "json"
    words = ('"problem_id"', '"gating_probs"', '"experts"')
    writer = "speculative-moe JSON Lines"
    kept = "gate weights, problems as requests, prompts in the raw variant"
    lost = "tokens that the profiler dropped: counted in the notes"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        return {"problem_id", "layer", "experts"} <= first_fields(source).keys()

    def read(self, source: Source) -> Trace:
        rows, layers, tokens, requests = DecisionRows(), array("q"), array("q"), array("q")
        problems: dict[tuple[str, int], int] = {}
        name = ""
        for entry in read_objects(source):
            if not name:
                name = "token_idx" if "token_idx" in entry.fields else "token_pos"
            key = (str(entry.fields.get("dataset")), entry.whole("problem_id"))
            requests.append(problems.setdefault(key, len(problems)))
            layers.append(entry.whole("layer"))
            tokens.append(entry.whole(name))
            rows.add_entry(entry, "experts", "gating_probs")
        if not len(rows):
            raise source.error("there is no object in it; record it again")
        layer, token, request = (np.array(one, np.int64) for one in (layers, tokens, requests))
        position, phase = _positions(source, rows, layer, token, request, name)
        records = Records(request, position, phase, layer, rows.line, called={"position": name})
        _note_lost(source, layer, request, position)
        slots = rows.slots()
        return assemble(source, records, slots, experts=source.experts(int(slots.expert.max())), column="experts")


def _positions(
    source: Source, rows: DecisionRows, layer: Ints, token: Ints, request: Ints, name: str
) -> tuple[Ints, npt.NDArray[np.int64]]:
    """Position of each row in its request, counted in the order of the layer's rows, and its phase."""
    position, phase = np.zeros_like(token), np.full(token.size, DECODE)
    stream = request * (int(layer.max()) + 1) + layer
    order = np.argsort(stream, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(stream[order])) + 1):
        position[here] = np.arange(here.size)
        given = token[here]
        if name == "token_idx":
            wrong = np.flatnonzero(np.diff(given, prepend=-1) != 1)
            if wrong.size:
                text = f"{given[wrong[0]]} where {wrong[0]} is expected at this layer; rows are missing or out of order"
                raise source.error(text, rows.line(int(here[wrong[0]])), name)
        else:
            later = np.flatnonzero(np.diff(given) <= 0)
            phase[here[: int(later[0]) + 1 if later.size else here.size]] = PREFILL
    if name == "token_idx":
        source.note("no phases are recorded: each token is a decode step of its own")
    else:
        source.note("the tokens of a problem before token_pos starts again are its prompt, one prefill step")
    return position, phase


def _note_lost(source: Source, layer: Ints, request: Ints, position: Ints) -> None:
    """Counts the rows that other layers of the same problem have and a layer has not."""
    counts = np.zeros((int(request.max()) + 1, np.unique(layer).size), np.int64)
    np.add.at(counts, (request, np.searchsorted(np.unique(layer), layer)), 1)
    lost = counts.max(axis=1, keepdims=True) - counts
    if lost.any():
        source.note(
            f"layers are ragged, because the profiler dropped tokens: {lost.sum()} decisions are lost, up to "
            f"{lost.max()} at a layer of a problem; where they were is unknown, so the last tokens have none there and "
            "layers are up to as many tokens apart"
        )
