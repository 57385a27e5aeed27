"""Misses of the same accesses here and in libCacheSim: policy × trace × scope × size, and the difference.

    python -m benchmarks.fidelity.agreement [--traces ../shared/traces] [--output agreement.json]

Every slot of every decision is an access of its own (`--order sequential`) to entries of one size, mandatory admission,
which is what a general cache simulator replays; our LFU is the variant that forgets evicted entries. In scope layer
both sides have a cache per layer, and misses are summed. Without the folder of traces only the synthetic one is used.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import remoe_sim
from benchmarks.script import NO_TRACES, TRACES, library, options, show
from remoe_sim import Decisions, InMemory, Model, Trace

libcachesim = library("libcachesim")
TWINS = {
    "lru": "LRU", "fifo": "FIFO", "belady": "Belady", "lfu-forget": "LFU", "sieve": "Sieve", "arc": "ARC",
    "clock": "Clock", "slru": "SLRU", "2q": "TwoQ", "s3fifo": "S3FIFO", "w-tinylfu": "WTinyLFU",
}  # fmt: skip
LEAST = {"slru": 4, "2q": 4, "s3fifo": 20, "w-tinylfu": 100}  # entries from which on theirs ever hits
EXCEPTIONS = {
    "slru": "its four segments hold a quarter each, so below 4 entries they hold none",
    "2q": "its A1in holds a quarter, so below 4 entries it holds none",
    "s3fifo": "its small queue, a tenth, must be larger than an entry; up to 9 entries it ends the process",
    "w-tinylfu": "its window, a hundredth, holds none below 100 entries; at 1 and 2 it ends the process",
    "lecar": "draws at random, with one history for both experts where the paper has two",
    "random": "draws at random",
}
ACCESS = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
TABLE = 8  # logarithm of the first size of libCacheSim's hash table; its default takes 50 ms per cache to fill


def accesses(trace: Trace) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(MoE layer, expert) of every slot in execution order: by step, layer, token, slot."""
    layers, experts, places = [], [], []
    for index in range(trace.moe_layers):
        decisions = trace.decisions(index)
        valid = np.ones(decisions.experts.shape, bool) if decisions.valid is None else decisions.valid
        rows, slots = np.nonzero(valid)
        experts.append(decisions.experts[valid].astype(np.int64))
        layers.append(np.full(rows.size, index))
        places.append(np.stack([trace.step[rows], layers[-1], rows, slots]))
    step, layer, row, slot = np.concatenate(places, axis=1)
    order = np.lexsort((slot, row, layer, step))
    return np.concatenate(layers)[order], np.concatenate(experts)[order]


def misses(ids: npt.NDArray[np.int64], policies: list[str], sizes: list[int], folder: Path) -> dict[str, list[int]]:
    """libCacheSim's misses of each policy at each size, for one cache."""
    records = np.zeros(ids.size, ACCESS)
    records["time"], records["id"], records["size"] = np.arange(ids.size), ids, 1
    records["next"] = next_uses(ids)
    path = folder / "trace.oracleGeneral"
    records.tofile(path)
    found: dict[str, list[int]] = {policy: [] for policy in policies}
    for policy in policies:
        for size in compared(policy, sizes):
            options = libcachesim.ReaderInitParam(ignore_obj_size=True)
            reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE, options)
            ratio, _ = getattr(libcachesim, TWINS[policy])(size, hashpower=TABLE).process_trace(reader)
            found[policy].append(round(ratio * ids.size))
    return found


def compared(policy: str, sizes: list[int]) -> list[int]:
    """The sizes at which libCacheSim's variant admits anything."""
    return [size for size in sizes if size >= LEAST.get(policy, 1)]


def next_uses(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each id comes again, -1 if it does not."""
    order = np.argsort(ids, kind="stable")
    following = np.full(ids.size, -1)
    again = ids[order][1:] == ids[order][:-1]
    following[order[:-1][again]] = order[1:][again]
    return following


def compare(trace: Trace, scope: str, sizes: list[int], policies: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """A row per policy and size."""
    layer, expert = accesses(trace)
    if scope == "global":
        theirs = misses(np.append(0, np.cumsum(trace.model.experts))[layer] + expert, policies, sizes, folder)
    else:
        each = [misses(expert[layer == index], policies, sizes, folder) for index in range(trace.moe_layers)]
        theirs = {policy: [sum(at) for at in zip(*(one[policy] for one in each), strict=True)] for policy in policies}
    frame = remoe_sim.curve(trace, policies, cache=sizes, scope=scope, order="sequential")
    for policy in policies:
        rows = frame[(frame["layer"] == "all") & (frame["policy"] == policy)]
        rows = rows[rows["capacity"].isin(compared(policy, sizes))]
        for (_, row), other in zip(rows.iterrows(), theirs[policy], strict=True):
            ours = int(row["lookups"] - row["hits"])
            yield {
                "policy": policy, "scope": scope, "size": int(row["capacity"]), "accesses": int(row["lookups"]),
                "misses": ours, "misses_libcachesim": other, "difference": ours - other,
            }  # fmt: skip


def synthetic(tokens: int = 400, layers: int = 4, experts: int = 64, k: int = 6, seed: int = 7) -> Trace:
    """A seeded trace: popular experts are chosen more often, and some stay from one token to the next."""
    rng = np.random.default_rng(seed)
    chosen = []
    for _ in range(layers):
        popularity = np.log(1 / np.arange(1, experts + 1))[rng.permutation(experts)]
        scores = popularity + rng.gumbel(size=(tokens, experts))
        scores[1:] += 0.5 * scores[:-1]
        chosen.append(Decisions(np.argsort(-scores, axis=1)[:, :k].astype(np.uint16)))
    column = np.arange(tokens, dtype=np.int32)
    request, phase = column * 0, np.ones(tokens, np.uint8)
    model = Model((experts,) * layers, (k,) * layers, f"synthetic, seed {seed}")
    return Trace(request, column, column, phase, tuple(range(layers)), model, InMemory(chosen))


def first_tokens(trace: Trace, tokens: int) -> Trace:
    """The beginning of a trace, in memory."""
    rows = np.arange(min(tokens, trace.tokens))
    layers = [trace.decisions(index).take(rows) for index in range(trace.moe_layers)]
    columns = (trace.request[rows], trace.position[rows], trace.step[rows], trace.phase[rows])
    return Trace(*columns, trace.layer_numbers, trace.model, InMemory(layers))


def traces(folder: Path, tokens: int = 400) -> Iterator[tuple[str, Trace]]:
    """Names and traces: a synthetic one, and those of the folder that are there."""
    yield "synthetic", synthetic(tokens)
    for name in ("qwen", "gptoss"):
        if (path := folder / "bigmoe" / f"{name}.route.csv").is_file():
            yield name, remoe_sim.import_trace(path)
    if (path := folder / "gpt-oss-20b" / "gptoss20b_decode_subset.npz").is_file():
        yield "gpt-oss-20b, first 5000 tokens", first_tokens(remoe_sim.import_trace(path), 5000)


def sizes_of(trace: Trace, scope: str) -> list[int]:
    """From one entry to all but one, closer together where a cache is small."""
    entries = sum(trace.model.experts) if scope == "global" else max(trace.model.experts)
    large = [size for size in (1000, 1500, 2500, 4000) if size < entries]
    return sorted({1, 2, 3, *np.geomspace(4, entries - 1, 9).astype(int).tolist(), *large})


def measure(folder: Path, tokens: int = 400) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, trace in traces(folder, tokens):
            for scope in ("layer", "global"):
                compared = compare(trace, scope, sizes_of(trace, scope), list(TWINS), Path(scratch))
                rows += [{"trace": name, **row} for row in compared]
    return {
        "libcachesim": version("libcachesim"),
        "cases": len(rows),
        "cases_that_differ": sum(row["difference"] != 0 for row in rows),
        "not_compared": [
            {"policy": policy, "sizes": f"below {LEAST[policy]}" if policy in LEAST else "all", "reason": reason}
            for policy, reason in EXCEPTIONS.items()
        ],
        "rows": rows,
    }


def main() -> None:
    parser = options(__doc__, quick={"traces": NO_TRACES, "tokens": 40})
    parser.add_argument("--traces", type=Path, default=TRACES, metavar="FOLDER")
    parser.add_argument("--tokens", type=int, default=400, help="of the synthetic trace")
    given = parser.parse_args()
    show(measure(given.traces, given.tokens), given.output)


if __name__ == "__main__":
    sys.exit(main())
