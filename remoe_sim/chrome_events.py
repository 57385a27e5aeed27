"""A timeline in the Chrome trace format (JSON), which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Format: "Trace Event Format" of the Chromium project: complete events (`ph` X) with times in microseconds, and metadata
events (`ph` M) that name the tracks.
"""

from __future__ import annotations

import json
import os

from remoe_sim.file_writing import replacing
from remoe_sim.timelines import Log

_KINDS = ("dense", "experts", "waiting", "experts on the CPU", "read", "copy")
_TRACKS = ("device", "device", "device", "CPU", "storage lane", "PCIe lane")


def write_events(path: str | os.PathLike[str], log: Log, title: str) -> None:
    """Write the events of a log; the file appears whole or not at all. Raises ValueError if that cannot be."""
    tracks: dict[str, int] = {}
    events: list[dict[str, object]] = []
    for (kind, step, layer, lane), (start, end) in zip(log.events.tolist(), log.spans.tolist(), strict=True):
        name = _TRACKS[kind] + (f" {lane}" if _TRACKS[kind].endswith("lane") else "")
        events.append(
            {
                "name": _KINDS[kind], "ph": "X", "pid": 1, "tid": tracks.setdefault(name, len(tracks) + 1),
                "ts": start * 1e6, "dur": (end - start) * 1e6, "args": {"step": step, "layer": layer},
            }
        )  # fmt: skip
    named = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": title}}]
    named += [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": name}}
        for name, number in tracks.items()
    ]
    text = json.dumps({"displayTimeUnit": "ms", "traceEvents": [*named, *events]})
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
