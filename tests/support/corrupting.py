"""A trace file with every kind of column, where its parts lie, and damaged variants of it."""

import numpy as np

import remoe_sim
from remoe_sim import Decisions, InMemory, Model, Trace, TraceError
from remoe_sim.formats.parquet_footer import fields, number
from remoe_sim.trace import reader, writer
from remoe_sim.trace.schema import CHECK_KEY, KEY
from remoe_sim.trace.sources import parts_of

ROWS, GROUP = 200, 64
HOW = ("bit", "byte", "zeros", "ones", "noise", "swap", "cut", "lost")


def whole_trace(rows=ROWS, seed=0):
    """Four layers that differ in k and E, with dropped slots, null decisions, weights, probabilities, token ids."""
    rng = np.random.default_rng(seed)
    shapes = ((8, 2), (16, 4), (60, 4), (8, 1))
    layers, weights, probs = [], [], []
    for layer, (experts, k) in enumerate(shapes):
        ids = np.argsort(rng.random((rows, experts)), axis=1)[:, :k].astype(np.uint16)
        valid = routed = None
        if layer == 1:
            valid = rng.random((rows, k)) > 0.2
        if layer == 2:
            routed = rng.random(rows) > 0.3
            valid = np.repeat(routed[:, None], k, 1)
        ids[np.zeros_like(ids, bool) if valid is None else ~valid] = 0
        layers.append(Decisions(ids, valid, routed))
        gates = rng.random((rows, k)).astype(np.float32)
        weights.append(None if layer == 3 else np.where(True if valid is None else valid, gates, 0).astype(np.float32))
        probs.append(rng.dirichlet(np.ones(experts), rows).astype(np.float16) if layer == 0 else None)
    prompt = rows // 4
    step = np.maximum(np.arange(rows) - prompt + 1, 0).astype(np.int32)
    return Trace(
        request=np.zeros(rows, np.int32),
        position=np.arange(rows, dtype=np.int32),
        step=step,
        phase=(step > 0).astype(np.uint8),
        layer_numbers=(1, 2, 3, 5),
        model=Model(
            tuple(e for e, _ in shapes), tuple(k for _, k in shapes), "some/model-8x60", 7, (3145728, 2097152, 3, 4),
            (11, 12, 13, 14, 15, 16, 17), "q4_k_m",
        ),
        source=InMemory(layers, weights, probs),
        token_id=rng.integers(0, 50_000, rows).astype(np.int32),
        origin={"format": "by hand", "path": "x.csv", "sha256": "0" * 64},
        notes="layers are numbered from 0; sizes are those of the file",
    )  # fmt: skip


def written(trace, path):
    """The bytes of the trace as a file of several row groups."""
    before = writer.block_rows
    writer.block_rows = lambda _: GROUP
    try:
        remoe_sim.write_trace(trace, path)
    finally:
        writer.block_rows = before
    return path.read_bytes()


def content(trace):
    """Everything that a trace says, in values that can be compared: a byte of it changed is a difference."""
    found = {name: getattr(trace, name).tobytes() for name in ("request", "position", "step", "phase")}
    found["token_id"] = None if trace.token_id is None else trace.token_id.tobytes()
    found |= {name: getattr(trace, name) for name in ("layer_numbers", "model", "origin", "notes", "tokens")}
    for index in range(trace.moe_layers):
        found[f"decisions {index}"] = of_decisions(trace.decisions(index))
        for kind in ("weights", "probs"):
            values = getattr(trace.source, kind)(index)
            found[f"{kind} {index}"] = None if values is None else (values.shape, str(values.dtype), values.tobytes())
    return found


def of_decisions(one):
    """Ids and masks, a mask of all like none."""
    rows, k = one.experts.shape
    valid = np.ones((rows, k), bool) if one.valid is None else one.valid
    routed = np.ones(rows, bool) if one.routed is None else one.routed
    return rows, k, one.experts.tobytes(), valid.tobytes(), routed.tobytes()


def ranges(data):
    """By class of bytes its (first byte, end), none of which overlap but `whole file`."""
    import io

    import pyarrow.parquet as pq

    end = len(data) - 8
    start = end - int.from_bytes(data[end : end + 4], "little")
    found = {
        "magic": [(0, 4), (end + 4, end + 8)],
        "footer length": [(end, end + 4)],
        "whole file": [(0, len(data))],
    }
    taken = []

    def add(name, first, last):
        found.setdefault(name, []).append((first, last))
        taken.append((first, last))

    footer = {path: (first, last) for path, first, last in fields(data, start)}
    for path, (first, last) in footer.items():
        if path[:1] == (5,) and len(path) == 3 and data[first:last].endswith((KEY, CHECK_KEY, b"ARROW:schema")):
            value = footer[(*path[:2], 2)]
            key = data[first:last].rpartition(b"ARROW")[2] if data[first:last].endswith(b"schema") else None
            name = "Arrow's schema" if key else "checksum" if data[first:last].endswith(CHECK_KEY) else "metadata JSON"
            add(name, *value)
            add("metadata keys", first, last)
        if path[:1] == (4,) and len(path) == 6 and path[2:3] == (1,) and path[4:] == (3, 12):
            add("statistics", first, last)
    for first, last in _without(start, end, taken):
        found.setdefault("rest of the footer", []).append((first, last))
    meta = pq.read_metadata(io.BytesIO(data))
    for group in range(meta.num_row_groups):
        for leaf in range(meta.num_columns):
            column = meta.row_group(group).column(leaf)
            kind = column.path_in_schema.split(".")[0].split("_0")[0]
            at = column.dictionary_page_offset or column.data_page_offset
            last = at + column.total_compressed_size
            while at < last:
                header = fields(data, at)
                sizes = {path: data[first:end] for path, first, end in header if path in ((1,), (3,))}
                body = header[-1][2]
                size = number(sizes[3,])
                found.setdefault("page header", []).append((at, body))
                page = "dictionary" if number(sizes[1,]) == 2 else "data"
                found.setdefault(f"{page} of {kind}", []).append((body, body + size))
                at = body + size
    return found


def _without(start, end, taken):
    """What is left of a range."""
    at = start
    for first, last in sorted(taken):
        if first > at:
            yield at, first
        at = max(at, last)
    if at < end:
        yield at, end


def damaged(data, spans, rng):
    """The file with one damage that begins within a class of bytes, and what kind it is; never the file as it was."""
    while True:
        first, last = spans[rng.randrange(len(spans))]
        at, how = rng.randrange(first, last), rng.choice(HOW)
        size = min(rng.choice((1, 2, 4, 8, 16, 64, 512)), last - at)
        changed = bytearray(data)
        if how == "bit":
            changed[at] ^= 1 << rng.randrange(8)
        elif how == "byte":
            changed[at] = rng.randrange(256)
        elif how in ("zeros", "ones"):
            changed[at : at + size] = (b"\0" if how == "zeros" else b"\xff") * size
        elif how == "noise":
            changed[at : at + size] = rng.randbytes(size)
        elif how == "swap":
            other = rng.randrange(first, last)
            changed[at], changed[other] = changed[other], changed[at]
        elif how == "cut":
            del changed[at:]
        else:
            del changed[at : at + size]
        if bytes(changed) != data:
            return bytes(changed), how


def in_parts(trace):
    """`content`, with the decisions of each layer put together from parts."""
    found = content(trace)
    for index in range(trace.moe_layers):
        parts = [of_decisions(part)[2:] for _, part in parts_of(trace, index)]
        found[f"decisions {index}"] = (
            *found[f"decisions {index}"][:2],
            *(b"".join(one) for one in zip(*parts, strict=True)),
        )
    return found


class Reading:
    """All ways in which a trace file is read, and what comes out of a damaged one. `good`: the bytes of a whole one."""

    WAYS = ("whole", "by layer", "in parts", "after it was opened", "remote")

    def __init__(self, good, folder):
        self.good, self.path = good, folder / "t.parquet"
        self.path.write_bytes(good)
        self.expected = content(remoe_sim.read_trace(self.path))

    def outcome(self, data, way):
        """`refused`, `identical`, `silent`, or what else happened."""
        before = reader.RESIDENT_BYTES, reader.PART_ROWS
        if way != "whole":
            reader.RESIDENT_BYTES = -1
        if way == "in parts":
            reader.PART_ROWS = 16
        try:
            return "identical" if self._read(data, way) == self.expected else "silent"
        except TraceError as error:
            return "refused" if str(error).startswith((str(self.path), "memory://")) else f"no place: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            reader.RESIDENT_BYTES, reader.PART_ROWS = before

    def _read(self, data, way):
        if way == "remote":
            import fsspec

            fsspec.filesystem("memory").pipe_file("/damaged/t.parquet", data)
            return content(remoe_sim.read_trace("memory://damaged/t.parquet"))
        if way == "after it was opened":
            self.path.write_bytes(self.good)
            trace = remoe_sim.read_trace(self.path)
            self.path.write_bytes(data)
            return content(trace)
        self.path.write_bytes(data)
        trace = remoe_sim.read_trace(self.path)
        return in_parts(trace) if way == "in parts" else content(trace)
