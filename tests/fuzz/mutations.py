"""Mutations that know the structure of an input: values of JSON, cells of CSV, members of archives, columns of Parquet.

What is changed is written whole again, with right lengths and checksums, so that a fault gets past the outer layers.
"""

import base64
import csv
import gzip
import io
import json
import math
import struct
import zipfile
from contextlib import suppress

WHOLE = (
    -1, 0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 65535, 65536, 65537, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**62,
    2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), 10**9, 10**30, 10**400,
)  # fmt: skip
REAL = (0.5, -0.0, 1e-320, 1e38, 1e39, 1e308, math.inf, -math.inf, math.nan, 1.0, 2.0)
TEXT = (
    "", " ", "0", "-1", "1e5", "nan", "inf", "null", "decode", "prefill", "true", "x" * 300, "a\nb", "a\rb", "a\0b",
    "é", "\u2028", "\ud800", "<script>", '"', "'", ",", "٣", "²", "1_0", "+1", " 1", "0x10", "/etc/passwd", "../..",
    "a%:b%", "uint8", "int64", "float32", "object", "O", "torch.int64", "%", "{}", "MiB", "[", "-", ".",
)  # fmt: skip
LENGTHS = (0, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1)
_KINDS = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x93NUMPY": "npy",
    b"PAR1": "parquet",
}


def mutated(data, rng, most=2**20):
    """The input with one to four changes; never longer than `most`."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = _once(data, rng)
    return data[:most]


def _once(data, rng, depth=0):
    if depth < 3 and rng.random() < 0.85:
        kind = next((name for magic, name in _KINDS.items() if data.startswith(magic)), "text")
        with suppress(Exception):  # what is too broken to be taken apart is changed as bytes
            return _BY_KIND[kind](data, rng, depth)
    return some_bytes(data, rng)


def some_bytes(data, rng):
    """Bytes flipped, replaced by numbers at the edge of their range, doubled, moved or cut off."""
    if not data:
        return bytes([rng.randrange(256)])
    changed, at = bytearray(data), rng.randrange(len(data))
    how = rng.randrange(7)
    size = min(rng.choice((1, 2, 4, 8, 32, 256)), len(data) - at)
    if how == 0:
        changed[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif how == 2:
        raw = struct.pack(rng.choice("<>") + "Q", rng.choice(LENGTHS))[: rng.choice((2, 4, 8))]
        changed[at : at + len(raw)] = raw
    elif how == 3:
        del changed[at : at + size]
    elif how == 4:
        changed[at:at] = changed[at : at + size]
    elif how == 5:
        changed[at : at + size] = bytes(size)
    else:
        del changed[at:]
    return bytes(changed)


def odd_value(rng):
    """A value that JSON may hold where another is expected."""
    return rng.choice((
        lambda: rng.choice(WHOLE), lambda: rng.choice(REAL), lambda: rng.choice(TEXT), lambda: None,
        lambda: rng.random() < 0.5, lambda: [], lambda: {}, lambda: [[]],
        lambda: [rng.choice(WHOLE)] * rng.randrange(9),
        lambda: {"a": 1}, lambda: rng.randrange(10),
    ))()  # fmt: skip


def _in_tree(value, rng, depth):
    """A tree with one change somewhere in it."""
    here = not isinstance(value, (dict, list)) or not value or rng.random() < 0.12
    if not here:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        changed = value.copy()
        how = rng.randrange(12)
        if how == 0:
            del changed[key]
        elif how == 1 and isinstance(value, list):
            changed.insert(key, rng.choice(value))
        elif how == 2 and isinstance(value, dict):
            changed[rng.choice((*TEXT, *keys))] = changed.pop(key)
        elif how == 3 and isinstance(value, list):
            other = rng.randrange(len(value))
            changed[key], changed[other] = changed[other], changed[key]
        else:
            changed[key] = _in_tree(value[key], rng, depth)
        return changed
    if isinstance(value, bool) or value is None:
        return odd_value(rng)
    if isinstance(value, int) and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, -value, value * 2, float(value), str(value), rng.choice(WHOLE)))
    if isinstance(value, str) and len(value) > 16 and rng.random() < 0.7:
        with suppress(ValueError):
            return base64.b64encode(_once(base64.b64decode(value, validate=True), rng, depth + 1)).decode()
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(TEXT) + value[at + 1 :]
    if rng.random() < 0.02:
        return json.loads("[" * 900 + "]" * 900)
    return odd_value(rng)


def _text(data, rng, depth):
    text = data.decode()
    stripped = text.lstrip()
    if stripped.startswith(("{", "[")):
        with suppress(ValueError):
            return _dumped(_in_tree(json.loads(text), rng, depth), rng).encode(errors="surrogatepass")
        return _lines(text, rng, depth)
    if "=" in text and "\n" in text and "," not in text.split("\n")[0]:
        return _toml(text, rng).encode(errors="surrogatepass")
    return _cells(text, rng).encode(errors="surrogatepass")


def _dumped(value, rng):
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def _lines(text, rng, depth):
    """JSON Lines: a line less, twice, moved, or with a change in its value."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    how = rng.randrange(8)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif how == 2:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif how == 3:
        return some_bytes(text.encode(), rng)
    else:
        lines[at] = _dumped(_in_tree(json.loads(lines[at]), rng, depth), rng)
    return "\n".join(lines).encode(errors="surrogatepass")


def _cells(text, rng):
    """CSV and other tables: cells, rows and columns."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    how = rng.randrange(10)
    between = "," if "," in lines[at] else " "
    cells = next(csv.reader([lines[at]]), []) if between == "," else lines[at].split(between)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif how == 2:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif how == 3 and cells:  # a column less, or two in another order
        one, other = rng.randrange(len(cells)), rng.randrange(len(cells))
        for number, line in enumerate(lines):
            parts = line.split(between)
            if len(parts) > max(one, other):
                parts[one], parts[other] = parts[other], parts[one]
                lines[number] = between.join(parts)
    elif cells:
        place = rng.randrange(len(cells))
        cell = cells[place]
        with suppress(ValueError):
            cell = str(rng.choice((int(cell) + 1, int(cell) - 1, 2 * int(cell), rng.choice(WHOLE))))
        if cell == cells[place] or rng.random() < 0.4:
            cell = str(odd_value(rng))
        cells[place] = cell
        if how == 4:
            cells.insert(place, rng.choice(TEXT))
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="").writerow(cells)
        lines[at] = buffer.getvalue() if between == "," and rng.random() < 0.7 else between.join(cells)
    return "\n".join(lines)


_TOML = ("-1", "0", "1", "1.5", "1e400", "nan", "inf", "true", '""', '"x"', "[]", "{}", "[1]", "9223372036854775807",
         "1979-05-27", "[[1,2]]", '{ value = 1, status = "verified", source = "x" }', "0x10", "10000000000000000000000",
         "[-1]", "1000000000", '"' + "x" * 300 + '"')  # fmt: skip


def _toml(text, rng):
    """Lines of TOML: a value replaced, a line less, twice, or elsewhere."""
    lines = text.split("\n")
    at = rng.choice([number for number, line in enumerate(lines) if line.strip()])
    how = rng.randrange(9)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif how == 2:
        lines[at] = rng.choice(("[a]", "[[stages]]", "[shape]", "[[attention]]", "a = 1", "[links.pcie]"))
    elif "=" in lines[at]:
        parts = lines[at].split("=")
        place = rng.randrange(1, len(parts))
        rest = parts[place].partition(",")
        parts[place] = f" {rng.choice(_TOML)}" + (f" {rest[1]}{rest[2]}" if rest[1] and rng.random() < 0.7 else "")
        lines[at] = "=".join(parts)
    return "\n".join(lines)


def _zip(data, rng, depth):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    name = rng.choice(list(members))
    how = rng.randrange(10)
    if how == 0:
        del members[name]
    elif how == 1:
        members[rng.choice((*TEXT, *members))] = members.pop(name)
    elif name.endswith(".pkl") and rng.random() < 0.8:
        members[name] = _pickle(members[name], rng)
    else:
        members[name] = _once(members[name], rng, depth + 1)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for one, content in members.items():
            archive.writestr(zipfile.ZipInfo(one), content, archive.compression)
    return buffer.getvalue()


def _pickle(data, rng):
    """A number or a text of a pickle replaced, so that the rest is still read."""
    import pickletools

    operations = list(pickletools.genops(data))
    places = [
        (at, operations[number + 1][2], code, value)
        for number, (code, value, at) in enumerate(operations[:-1])
        if code.name
        in ("BININT", "BININT1", "BININT2", "BINUNICODE", "NEWTRUE", "NEWFALSE", "NONE", "LONG1", "BINFLOAT")
        or (code.name in ("GLOBAL", "EMPTY_LIST", "EMPTY_DICT", "TUPLE", "APPENDS", "SETITEMS") and rng.random() < 0.1)
    ]
    at, end, code, value = rng.choice(places)
    if rng.random() < 0.1:
        return some_bytes(data, rng)
    whole = rng.choice((*WHOLE, value + 1, value - 1)) if isinstance(value, int) else rng.choice(WHOLE)
    if code.name == "GLOBAL":
        new = rng.choice((b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n"))
    elif isinstance(value, str) or rng.random() < 0.15:
        text = rng.choice((*TEXT, "0", "1", "2")).encode(errors="surrogatepass")
        new = b"X" + struct.pack("<I", len(text)) + text
    elif rng.random() < 0.15:
        new = rng.choice((b"N", b"\x88", b"]", b"}", b")", b"G" + struct.pack(">d", rng.choice(REAL))))
    else:
        raw = whole.to_bytes(whole.bit_length() // 8 + 1, "little", signed=True)[:255]
        new = b"\x8a" + bytes([len(raw)]) + raw
    return data[:at] + new + data[end:]


def _npy(data, rng, depth):
    import numpy as np

    if rng.random() < 0.5:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        assert version == (1, 0)
        raw = stream.read()
        how = rng.randrange(4)
        if how == 0:
            dtype = rng.choice(("<i8", "<u8", "<i2", "|u1", "<f4", "<f8", "|b1", "<U3", "|O", "<c8", "|V4", "<M8[s]"))
        elif how == 1:
            shape = tuple(rng.choice((one, rng.choice(LENGTHS), 0, -1)) for one in shape)
        elif how == 2:
            shape = rng.choice(((), (*shape, 1), shape[1:], shape[::-1], (math.prod(shape),)))
        else:
            fortran = not fortran
        kind = dtype if dtype == "|O" else np.dtype(dtype).str
        head = f"{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
        head += " " * (-(len(head) + 11) % 64) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + raw
    array = np.load(io.BytesIO(data), allow_pickle=False)
    flat = array.reshape(-1).copy()
    if flat.size and flat.dtype.kind in "iu":
        limits = np.iinfo(flat.dtype)
        flat[rng.randrange(flat.size)] = rng.choice((limits.min, limits.max, 0, rng.randrange(9)))
    elif flat.size and flat.dtype.kind == "f":
        flat[rng.randrange(flat.size)] = rng.choice((math.nan, math.inf, -1.0, 0.0))
    array = flat.reshape(array.shape)
    if array.ndim and rng.random() < 0.3:
        array = rng.choice((array[:-1], array[::2], np.concatenate([array, array]), array[..., :1]))
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _gzip(data, rng, depth):
    return gzip.compress(_once(gzip.decompress(data), rng, depth + 1), 1)


def _zstd(data, rng, depth):
    import pyarrow as pa

    whole = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    return pa.compress(_once(whole, rng, depth + 1), "zstd", asbytes=True)


def _parquet(data, rng, depth):
    """Columns of another type, with other numbers, less, twice or renamed; metadata with its checksum made right."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from remoe_sim.trace.schema import CHECK_KEY, KEY, checksum

    table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
    stored = dict(table.schema.metadata or {})
    name = rng.choice(table.schema.names)
    at, how = table.schema.names.index(name), rng.randrange(9)
    if how < 3 and KEY in stored:
        meta = json.loads(stored[KEY])
        meta = _in_tree(meta, rng, depth)
        if rng.random() < 0.7 and isinstance(meta, dict):
            meta.pop("content", None)
        stored[KEY] = json.dumps(meta).encode()
        stored[CHECK_KEY] = checksum(stored[KEY])
    elif how == 3:
        table = table.drop_columns([name])
    elif how == 4:
        names = [*table.schema.names]
        names[at] = rng.choice((*names, "experts_99999999999", "experts_00", "weights_03", "probs_03", "x"))
        table = table.rename_columns(names)
    elif how == 5:
        table = table.slice(rng.randrange(3), rng.randrange(9))
    else:
        values = table.column(name).to_pylist()
        values = _in_tree(values, rng, depth) if isinstance(values, list) else values
        kinds = (
            None,
            table.schema.field(name).type,
            pa.int64(),
            pa.list_(pa.int32()),
            pa.list_(pa.float64()),
            pa.string(),
        )
        for kind in rng.sample(kinds, len(kinds)):
            with suppress(Exception):
                table = table.set_column(at, name, pa.array(values, kind))
                break
    buffer = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(stored), buffer, compression=rng.choice(("zstd", "none", "snappy")),
        row_group_size=rng.choice((1, 2, 1000)), store_schema=rng.random() < 0.5,
        write_page_checksum=rng.random() < 0.5,
    )  # fmt: skip
    return buffer.getvalue()


_BY_KIND = {
    "zip": _zip, "gzip": _gzip, "zstd": _zstd, "npy": _npy, "parquet": _parquet, "text": _text,
}  # fmt: skip
