"""What the reader and the writer of trace files share: metadata keys, column names, content hashes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from remoe_sim.trace import Decisions, Trace

KEY, CHECK_KEY = b"remoe_sim", b"remoe_sim_checksum"
ROWS = ("request", "position", "step")
LAYER = re.compile(r"experts_(\d{2,})")


def array_hash(values: npt.NDArray[Any]) -> str:
    """Hash of an array's bytes in C order."""
    return "xxh3:" + xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).data)


def row_hash(trace: Trace, name: str) -> str:
    """Hash of a column that describes tokens."""
    return array_hash(getattr(trace, name))


def decisions_hash(decisions: Decisions) -> str:
    """Hash of the ids, and of where the nulls are if there are any."""
    digest = array_hash(decisions.experts)
    for mask in (decisions.valid, decisions.routed):
        if mask is not None:
            digest += "-" + xxhash.xxh3_64_hexdigest(np.packbits(mask).data)
    return digest


def checksum(text: bytes) -> bytes:
    """Checksum of the metadata."""
    return xxhash.xxh3_128_hexdigest(text).encode()
