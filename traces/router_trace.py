"""stratamoe-lab's RouterTrace, version 2 (and 1, which has neither version nor source).

    {"version": 2, "source": {"kind": "captured"}, "scenario": "chat", "tokens": 2, "layers": 2,
     "expertsPerLayer": 16, "topK": 2, "selections": [[[7, 3], [9, 1]], [[12, 3], [4, 1]]]}

selections are [token][layer][rank]. Phases and requests are not recorded.
"""

from __future__ import annotations

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.facts import facts_of
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, read_json, shown
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace


class RouterTrace(TraceFormat):
    name = "router-trace"
    summary = "stratamoe-lab RouterTrace JSON: selections [token][layer][rank]"
    layout = __doc__ or ""
    shape = "json"
    words = ('"selections"', '"expertsPerLayer"', '"topK"')
    writer = "stratamoe-lab RouterTrace, versions 1 and 2"
    kept = "ranks"
    lost = "phases, requests (one, all decode), weights, layer numbers"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        text = source.head_text
        return '"selections"' in text and ('"expertsPerLayer"' in text or '"topK"' in text)

    def read(self, source: Source) -> Trace:
        value = read_json(source)
        entry = Entry(source, value if isinstance(value, dict) else {})
        version = entry.fields.get("version", 1)
        if version not in (1, 2):
            raise entry.error(f"{shown(version)} is unknown, this release reads 1 and 2; update remoe-sim", "version")
        ids = entry.array("selections", 3)
        for axis, name in enumerate(("tokens", "layers", "topK")):
            stated = entry.maybe_whole(name)
            if stated is not None and stated != ids.shape[axis]:
                raise entry.error(f"it is {stated}, but selections have {ids.shape[axis]}; record it again", name)
        kind = entry.inside("source").fields.get("kind") if isinstance(entry.fields.get("source"), dict) else None
        if kind == "synthetic":
            source.note("it is synthetic, as it says itself")
        facts = facts_of(entry.fields)
        return facts.checked(source, trace_of_requests(source, [RequestArrays(ids)], experts=facts.experts))
