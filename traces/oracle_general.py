"""libCacheSim's oracleGeneral: every slot of every decision is one access, in the order of `--order sequential`.

Little-endian records without a header: timestamp u32 (the step), obj_id u64, obj_size u32 (bytes of the expert, 1 where
they are unknown), next_access_vtime i64 (which record accesses the same expert next, counted from 0; -1 for none). An
expert's id is its number plus the experts of all layers before its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.format import ExportFormat
from remoe_sim.trace import Trace

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.util.arrays import Longs

ACCESS = np.dtype([("timestamp", "<u4"), ("obj_id", "<u8"), ("obj_size", "<u4"), ("next_access_vtime", "<i8")])
LARGEST = 2**32 - 1


class OracleGeneral(ExportFormat):
    name = "oracle-general"
    suffix = ".oracleGeneral"
    summary = "libCacheSim's oracleGeneral, one access per slot"
    lost = "requests, phases, which accesses are one group, and the model"

    def write(self, trace: Trace, path: Path) -> None:
        from remoe_sim.trace.accesses import select_tokens

        sizes = trace.model.expert_bytes or (1,) * trace.moe_layers
        if max(sizes) > LARGEST:
            raise trace.error(f"an expert of {max(sizes)} bytes is above the {LARGEST} that oracleGeneral can say")
        tokens = select_tokens(trace)
        first = np.zeros(tokens.n_steps + 1, np.int64)  # of each step, the number of its next record
        for index in range(trace.moe_layers):
            first[1:] += np.bincount(self._stream(trace, index).steps, minlength=tokens.n_steps)
        np.cumsum(first, out=first)
        if first[-1] == 0:
            path.write_bytes(b"")
            return
        file = np.memmap(path, ACCESS, "w+", shape=(int(first[-1]),))
        numbers = trace.step[tokens.starts[:-1]]
        bases = np.append(0, np.cumsum(trace.model.experts))
        for index in range(trace.moe_layers):
            stream = self._stream(trace, index)
            place = _places(stream.steps, first)
            file["timestamp"][place] = numbers[stream.steps]
            file["obj_id"][place] = stream.entries.astype(np.int64) + bases[index]
            file["obj_size"][place] = sizes[index]
            file["next_access_vtime"][place] = _next(stream, place)
        file.flush()

    def _stream(self, trace: Trace, index: int) -> Stream:
        from remoe_sim.trace.accesses import layer_stream, select_tokens

        return layer_stream(trace, index, trace.decisions(index), select_tokens(trace), "sequential")


def _places(steps: npt.NDArray[np.int32], first: Longs) -> Longs:
    """Where each access of a layer goes; `first` then points behind them."""
    count = np.bincount(steps, minlength=first.size - 1)
    rank = np.arange(steps.size) - (np.cumsum(count) - count)[steps]
    place: Longs = first[:-1][steps] + rank
    first[:-1] += count
    return place


def _next(stream: Stream, place: Longs) -> Longs:
    """The place of each access's next one, -1 for none."""
    from remoe_sim.kernels.grouping import next_uses

    keys, upcoming = np.empty(place.size, np.int64), place.size + np.arange(stream.n_entries)
    next_uses(stream.offsets, stream.entries, stream.epochs, 0, place.size, upcoming, keys, np.zeros((0, 0), np.int64))
    return np.where(keys < place.size, np.append(place, -1)[np.minimum(keys, place.size)], -1)
