"""The routing of the first tokens of a trace, packed so that a page can draw any layer of it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from remoe_sim.trace import PHASES, Trace

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
