"""Small files and texts that claim, or unpack to, far more than any memory holds; each in the words of its format."""

import gzip
import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import remoe_sim
from remoe_sim.formats.parquet_footer import fields
from remoe_sim.trace.schema import CHECK_KEY, KEY, checksum
from tests.support.corrupting import whole_trace
from tests.support.foreign_files import b64, flame_moe, flat_imp, gpt_oss, moelens, sglang_records, vllm_outputs
from tests.support.torch_writing import tensor, torch_save

MANY = 300 * 2**20
CSV = b"request,position,phase,layer,expert\n"
JSONL = b'{"request": 0, "position": 0, "phase": "decode", "layer": 0, "experts": ['


def file(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return path


def zipped(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(shape, raw=b"\0" * 64, kind="<i8"):
    """An array that claims a shape."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + raw


def claiming(data, size):
    """A zip archive whose directory claims that each member unpacks to `size` bytes."""
    data = bytearray(data)
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + 24 : at + 28] = struct.pack("<I", size)
        at = data.find(b"PK\x01\x02", at + 1)
    return bytes(data)


def with_rows(data, rows):
    """A Parquet file whose footer claims so many rows."""
    end = len(data) - 8
    start = end - int.from_bytes(data[end : end + 4], "little")
    first, last = next((first, last) for path, first, last in fields(data, start) if path == (3,))
    value, raw = rows << 1, b""
    while value > 127:
        raw, value = raw + bytes([value & 127 | 128]), value >> 7
    footer = data[start:first] + raw + bytes([value]) + data[last:end]
    return data[:start] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def same_rows(path, rows, columns, groups):
    """A Parquet file of the same rows again and again, which take no room."""
    table = pa.table(columns(rows))
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(groups):
            writer.write_table(table, row_group_size=rows)
    return path


def trace_with(folder, **model):
    """A trace file whose metadata says something else of the model, with a right checksum and no hashes of columns."""
    path = folder / "t.parquet"
    remoe_sim.write_trace(whole_trace(8), path)
    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[KEY])
    meta.pop("content")
    meta["model"] |= model
    text = json.dumps(meta).encode()
    pq.write_table(table.replace_schema_metadata({KEY: text, CHECK_KEY: checksum(text)}), path)
    return path


def gguf(folder, tensors=2**60, values=0, rest=b""):
    return file(folder, "m.gguf", b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + rest + bytes(64))


def torch_file(folder, raw, data=b"\0" * 64):
    return file(folder, "r.pt", zipped({"r/data.pkl": raw, "r/data/0": data, "r/byteorder": b"little"}))


def flame(folder, change):
    path = flame_moe(folder)
    for one in path.rglob("layer_*.parquet"):
        change(one)
    return path


def outputs(changed):
    one = vllm_outputs()[0]
    one["outputs"][0]["routed_experts"] = changed
    return json.dumps([one]).encode()


def shared(levels=40):
    """Lists of one list ten times, forty levels deep, as a pickle: 10**40 elements in a kilobyte."""
    value = []
    for _ in range(levels):
        value = [value] * 10
    return pickle.dumps({"records": value, "logical_count": 1}, 2)


def columns(rows):
    nothing = pa.array(np.zeros(rows, np.int32))
    phase = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), ["decode"])
    ids = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows, np.uint16)), 1)
    return {"request": nothing, "position": nothing, "step": nothing, "phase": phase, "experts_00": ids}


def many_rows(folder):
    text = json.dumps({"schema_version": 1, "model": {"experts": 4, "top_k": 1}}).encode()
    return same_rows(
        folder / "t.parquet", 2**20, lambda rows: pa.table(columns(rows)).replace_schema_metadata({KEY: text}), 40
    )


def flame_rows(path):
    same_rows(path, 2**20, lambda rows: {"indices": pa.array([[0]] * rows, pa.list_(pa.int16()))}, 40)


IMPORTED = {
    "gzip of zeros": lambda f: file(f, "t.csv.gz", gzip.compress(CSV + bytes(MANY), 1)),
    "gzip of gzip": lambda f: file(f, "t.gz", gzip.compress(gzip.compress(bytes(MANY), 9), 9)),
    "gzip of a line without end": lambda f: file(f, "t.jsonl.gz", gzip.compress(JSONL + b"1," * (MANY // 2), 1)),
    "zstd of zeros": lambda f: file(f, "t.csv.zst", pa.compress(CSV + bytes(MANY), "zstd", asbytes=True)),
    "zstd of lists": lambda f: file(f, "t.jsonl.zst", pa.compress(JSONL + b"[]," * 10**8, "zstd", asbytes=True)),
    "npz of zeros": lambda f: file(f, "t.npz", zipped({"experts.npy": npy((MANY // 8,), bytes(MANY))})),
    "npz that claims 4 GiB": lambda f: file(f, "t.npz", claiming(zipped({"experts.npy": npy((1,))}), 2**32 - 2)),
    "npz with an array of 2**60": lambda f: file(f, "t.npz", zipped({"experts.npy": npy((2**60,))})),
    "npz with an array of 2**33": lambda f: file(f, "t.npz", zipped({"experts.npy": npy((2**31, 2, 2))})),
    "npy of 2**63 rows": lambda f: file(f, "t.npy", npy((2**63, 1, 1))),
    "npy of 2**33 rows": lambda f: file(f, "t.npy", npy((2**33, 1, 1))),
    "npy in base64": lambda f: file(f, "t.json", outputs(b64(np.frombuffer(npy((2**40, 1, 1)), "u1"), "u1"))),
    "base64 of a shape": lambda f: file(
        f, "t.json", outputs({"data": b64(np.zeros(8)), "dtype": "int32", "shape": [2**40, 1, 1]})
    ),
    "torch with a memo of 2**32": lambda f: torch_file(f, b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."),
    "torch with bytes of 2**40": lambda f: torch_file(f, b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"."),
    "torch with shared lists": lambda f: torch_file(f, shared()),
    "torch of zeros": lambda f: torch_file(f, pickle.dumps({"records": [], "logical_count": 1}, 2), bytes(MANY)),
    "torch with one number 2**40 times": lambda f: torch_save(
        sglang_records(last_physical_to_logical_map=tensor(np.arange(1), shape=(2**20, 2**20), stride=(0, 0))),
        f / "r.pt",
    ),
    "an expert 10**9": lambda f: file(f, "t.csv", CSV + b"0,0,decode,0,1000000000\n"),
    "a layer 10**9": lambda f: file(f, "t.csv", CSV + b"0,0,decode,1000000000,1\n"),
    "a position 10**30": lambda f: file(f, "t.csv", CSV + b"0,1" + b"0" * 30 + b",decode,0,1\n"),
    "a number of a million digits": lambda f: file(f, "t.jsonl", JSONL + b"1" * 10**6 + b"]}\n"),
    "a hundred thousand brackets": lambda f: file(f, "t.json", b'{"outputs": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    "10**9 experts of moelens": lambda f: file(f, "m.json", json.dumps(moelens() | {"num_experts": 10**9}).encode()),
    "10**9 layers of moelens": lambda f: file(f, "m.json", json.dumps(moelens() | {"num_layers": 10**9}).encode()),
    "a token 10**9 of gpt-oss": lambda f: file(
        f, "g.json", json.dumps(gpt_oss()).replace("layer_1", "layer_1000000000").encode()
    ),
    "top_k of 10**9": lambda f: file(f, "i.json", json.dumps({"top_k": 10**9, "data": flat_imp()}).encode()),
    "flame that claims 2**62 rows": lambda f: flame(f, lambda p: p.write_bytes(with_rows(p.read_bytes(), 2**62))),
    "flame that claims 2**31 rows": lambda f: flame(f, lambda p: p.write_bytes(with_rows(p.read_bytes(), 2**31))),
    "flame of 40 million equal rows": lambda f: flame(f, flame_rows),
}
TRACES = {
    "trace that claims 2**62 rows": lambda f: file(f, "t.parquet", with_rows(trace_with(f).read_bytes(), 2**62)),
    "trace of 40 million equal rows": many_rows,
    "trace of 10**9 experts": lambda f: trace_with(f, experts=10**9),
    "trace of top-10**9": lambda f: trace_with(f, top_k=10**9),
    "trace of top-4096": lambda f: trace_with(f, top_k=4096),
    "trace of 10**9 layers": lambda f: trace_with(f, layers=10**9),
    "trace of 2**61 dense bytes": lambda f: trace_with(f, dense_bytes=[2**61]),
}
MODELS = {
    "GGUF of 2**60 tensors": gguf,
    "GGUF of 2**60 values": lambda f: gguf(f, 0, 2**60),
    "GGUF with a name of 2**60 letters": lambda f: gguf(f, 0, 1, struct.pack("<Q", 2**60) + b"general"),
    "GGUF with a list of 2**60": lambda f: gguf(
        f, 0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**60)
    ),
    "config of 10**9 layers": lambda f: file(f, "config.json", b'{"num_hidden_layers": 1000000000}'),
}
NAMED = {  # formats that are named, because so little is recognised as none
    "gzip of a line without end": "jsonl",
    "zstd of lists": "jsonl",
    "a number of a million digits": "jsonl",
    "a hundred thousand brackets": "vllm",
    "torch with a memo of 2**32": "sglang-recorder",
    "torch with bytes of 2**40": "sglang-recorder",
    "torch with shared lists": "cecar",
}
TYPED = {
    "a range to 10**18": "0:999999999999999999",
    "a thousand ranges": ",".join(["0:999999"] * 1000),
}
