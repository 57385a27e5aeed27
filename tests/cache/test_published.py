"""Numbers that others published or recorded, reproduced through the library."""

import csv
import json
from functools import cache

import numpy as np
import pytest
from numba import config

import remoe_sim
from remoe_sim.kernels.tallies import DECODE as DECODE_LOOKUP
from remoe_sim.policy import Rules
from remoe_sim.policy.find import find_policy
from remoe_sim.trace.accesses import global_stream, select_tokens
from tests.oracle.naive import DECODE, Row
from tests.support.data import SHARED, needs_traces
from tests.support.strategies import Shape, trace_of

pytestmark = needs_traces
STACK = ("lru", "lfu", "belady")
interpreted = pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")
TRACES = [pytest.param("qwen", marks=interpreted), "gptoss"]


def table(path):
    """The records of a CSV file with a preamble of # lines."""
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


@cache
def bigmoe(name):
    return remoe_sim.import_trace(SHARED / "bigmoe" / f"{name}.route.csv")


def published():
    """(trace, budget, the rows of that budget by policy) of every replay curve; layer policies are something else."""
    for path in sorted(SHARED.glob("bigmoe/*-curve.csv")):
        name, rows = path.name.removesuffix("-curve.csv"), table(path)
        for mib in sorted({int(row["budget_mib"]) for row in rows}):
            at = {row["policy"]: row for row in rows if int(row["budget_mib"]) == mib and row["policy"] in STACK}
            yield pytest.param(name, mib, at, id=f"{name}-{mib}", marks=() if name == "gptoss" else interpreted)


CURVES = list(published())


def test_how_many_rows_are_published():
    rows = [policy for parameters in CURVES for policy in parameters.values[2]]
    assert len(rows) >= 66
    assert len(rows) == 3 * len(CURVES)


@pytest.mark.parametrize(("name", "mib", "rows"), CURVES)
def test_published_curves(name, mib, rows):
    report = remoe_sim.replay(bigmoe(name), budget=f"{mib}MiB", scope="global")
    for result in report:
        printed = (
            f"{100 * result.hit_rate:.3f}",
            f"{100 * result.decode.hit_rate:.3f}",
            f"{result.bytes_read / 2**20:.1f}",
        )
        row = rows[result.policy]
        assert printed == (row["hit_pct_cum"], row["hit_pct_decode"], row["read_mib"]), result.policy
    assert len(report) == len(rows) == 3


@pytest.mark.parametrize(
    ("name", "mib", "hits", "lookups", "decode_lookups", "read_mib"),
    [
        pytest.param("qwen", 4000, 29597, 39526, 36864, 27213.7, marks=interpreted),
        ("gptoss", 3000, 2066, 6375, 4608, 54322.8),
    ],
)
def test_what_the_engine_recorded(name, mib, hits, lookups, decode_lookups, read_mib):
    trace = bigmoe(name)
    result = remoe_sim.replay(trace, budget=f"{mib}MiB", scope="global", policy="lru")["lru"]
    assert (result.hits, result.lookups) == (hits, lookups)
    assert (result.decode.hits, result.decode.lookups) == (hits, decode_lookups)
    assert round(result.bytes_read / 2**20, 1) == read_mib

    stream = global_stream(trace, select_tokens(trace), "set", in_bytes=True)
    hit = find_policy("lru").replay(stream, mib * 2**20, Rules()).hit
    decode = stream.kinds == DECODE_LOOKUP
    steps = np.repeat(stream.steps, np.diff(stream.offsets))
    records = [record for record in table(SHARED / "bigmoe" / f"{name}.route.csv") if record["phase"] == "1"]
    records.sort(key=lambda record: [int(record[key]) for key in ("turn", "step", "layer", "slot")])
    assert hit[decode].tolist() == [record["residency"] != "0" for record in records]
    read = np.where(hit, 0, stream.weights[stream.entries])[decode]
    assert read.tolist() == [int(record["expert_bytes"]) for record in records]
    per_token = {}
    for record in records:
        position = int(record["step"])
        per_token[position] = per_token.get(position, 0) + int(record["expert_bytes"])
    mine = [int(read[steps[decode] == step].sum()) for step in np.unique(steps[decode])]
    assert mine == list(per_token.values())
    assert sum(mine) == result.decode.bytes_read


CAPACITIES = {
    "qwen": {6: (13881, 13881), 8: (15732, 19165), 12: (19107, 24574), 16: (22394, 27559), 24: (26602, 30824),
             32: (29687, 32484), 48: (32778, 33635), 64: (33621, 33771)},
    "gptoss": {2: (811, 811), 8: (2309, 2898), 12: (2642, 3169), 16: (2890, 3289), 24: (3198, 3316),
               32: (3281, 3316), 48: (3313, 3316), 64: (3316, 3316)},
}  # fmt: skip


@pytest.mark.parametrize("name", TRACES)
def test_caches_per_layer(name):
    counts = CAPACITIES[name]
    lookups = {"qwen": 36864, "gptoss": 4608}[name]
    frame = remoe_sim.curve(bigmoe(name), "lru,belady", cache=list(counts), phase="decode")
    rows = frame[frame["layer"] == "all"]
    assert set(rows["lookups"]) == set(rows["decode_lookups"]) == {lookups}
    for place, policy in enumerate(("lru", "belady")):
        mine = rows[rows["policy"] == policy]
        assert dict(zip(mine["capacity"], mine["hits"], strict=True)) == {
            at: hits[place] for at, hits in counts.items()
        }
    for capacity in list(counts)[:2]:
        report = remoe_sim.replay(bigmoe(name), capacity, policy="lru,belady", phase="decode")
        assert tuple(result.hits for result in report) == counts[capacity]


@pytest.mark.parametrize(
    ("name", "shared", "wanted"), [pytest.param("qwen", 13881, 36576, marks=interpreted), ("gptoss", 811, 4536)]
)
def test_adjacent_reuse(name, shared, wanted):
    trace = bigmoe(name)
    assert remoe_sim.replay(trace, 0, policy="lru")["lru"].reuse_rate == shared / wanted
    everywhere = remoe_sim.reuse(trace).iloc[-1]
    assert (everywhere["shared"], everywhere["wanted"]) == (shared, wanted)


@interpreted
def test_nothing_hits_below_a_token_cycle():
    """At batch 1 a use comes again after the bytes of a whole token, but for its place in its own group."""
    trace = bigmoe("qwen")
    sizes = trace.model.expert_bytes
    cycle = sum(6 * size for size in sizes)
    assert round(cycle / 2**20, 1) == 784.7
    frame = remoe_sim.curve(trace, "lru", budget=["770MiB", "773MiB", "784MiB"], scope="global")
    assert frame["hits"].tolist() == [0, 1706, 10961]
    least = cycle - 5 * max(sizes)
    decode = remoe_sim.curve(trace, "lru", budget=[least - 1, least, cycle], scope="global", phase="decode")
    assert decode["hits"].tolist() == [0, 781, 13881]


def test_toy():
    folder = SHARED / "toy"
    told = json.loads((folder / "manifest.json").read_text())["expected"]
    events = table(folder / "events.csv")
    wanted = [[int(expert) for expert in event["requested_experts"].split()] for event in events]
    rows = [Row(0, step, step, DECODE, wanted[3 * step : 3 * step + 3]) for step in range(5)]
    result = remoe_sim.replay(trace_of(rows, Shape((4, 4, 4), (2, 2, 2), None)), 2, policy="lru")["lru"]
    assert (result.lookups, result.hits, result.misses, result.evictions) == (30, 12, 18, 12)
    assert (result.cold_misses, result.capacity_misses) == (told["compulsory_misses"], told["capacity_misses"])
    assert (result.hits, result.misses, result.evictions) == (told["hits"], told["misses"], told["evictions"])
