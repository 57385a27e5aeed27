"""expert_trace.bin of kimi-k3-in-c: pairs of int32, little-endian, the layer and the expert, without any header.

All experts of a token at a layer, then the next token or layer, in the order of the engine; --top-k N says how many a
token has, else it is what divides all that stand at one layer. There are no phases and requests: a forward pass begins
where the layer number does not rise, and one of several tokens is a prompt.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import trace_of_activations
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace
from remoe_sim.util.arrays import Array

_MOST_LAYERS, _MOST_EXPERTS, _LEAST = 256, 4096, 4


class KimiK3C(TraceFormat):
    name = "kimi-k3-c"
    summary = "kimi-k3-in-c expert_trace.bin: pairs of int32, layer and expert"
    layout = __doc__ or ""
    shape = "binary"
    words = ("expert_trace.bin",)
    writer = "kimi-k3-in-c `expert_trace.bin`"
    kept = "the order of demand, layer numbers"
    lost = "phases and requests (found by the order of layers), weights; k is what divides all (`--top-k`)"
    sure = "code that reads it"

    def recognises(self, source: Source) -> bool:
        if source.shape != "binary" or len(source.head) < 8 * _LEAST:
            return False
        pairs = _pairs(source.head)
        layers, experts = pairs[:, 0], pairs[:, 1]
        possible = layers.min() >= 0 and experts.min() >= 0
        possible &= layers.max() < _MOST_LAYERS and experts.max() < _MOST_EXPERTS
        runs = np.flatnonzero(np.diff(layers)) + 1
        rises = layers[runs] - layers[runs - 1]
        in_order = len(runs) > 0 and bool(np.mean((rises == 1) | (rises < 0)) > 0.9)
        return bool(possible) and in_order and bool(experts.max() > 0)

    def read(self, source: Source) -> Trace:
        with source.open() as stream:
            raw = stream.read()
        if len(raw) % 8 or not raw:
            raise source.error(f"{len(raw)} bytes are not pairs of 4 bytes each; copy it again")
        layer, expert = _pairs(raw).T.astype(np.int64)
        for name, values, most in (("layer", layer, 2**16), ("expert", expert, 2**16)):
            wrong = np.flatnonzero((values < 0) | (values >= most))
            if wrong.size:
                raise source.error(f"pair {wrong[0]}: {name} {values[wrong[0]]} is not possible; copy it again")
        k = source.given.top_k
        if k is None:
            first = np.flatnonzero(np.append(True, layer[1:] != layer[:-1]))
            k = int(np.gcd.reduce(np.diff(np.append(first, layer.size))))
            source.note(f"{k} experts per token, which divides what stands at each layer (--top-k N sets it)")
        return trace_of_activations(
            source, layer, expert, k, int, lambda row, text: source.error(f"pair {row}: {text}")
        )


def _pairs(raw: bytes) -> Array:
    return np.frombuffer(raw[: len(raw) // 8 * 8], "<i4").reshape(-1, 2)
