"""The timeline of steps on one device: dense parts and experts one after the other, reads over one or two links.

A link has lanes that take turns: a read waits for its lane, `latency` passes, then the transfers of all lanes follow
each other in the order of issue, each taking `overhead` + bytes / `bandwidth` of the link; a lane alone is not faster
than its own bandwidth. Where reading slows computing down, only a share of what could overlap does. All times are
weighted sums and maxima of what is given, so nothing gets faster when a read is added or a link slows down.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.compile import borrowed, kernel
from remoe_sim.kernels.lists import at

NONE, LAYER, PREFETCH = 0, 1, 2  # overlap
DENSE, EXPERTS, STORAGE_WAIT, PCIE_WAIT, FIXED, NOW = range(6)  # of the clock; columns of parts are all before NOW
LATENCY, OVERHEAD, PER_BYTE, LANE_PER_BYTE = range(4)  # columns of rates, seconds
STORAGE, HOST = 0, 1  # rows of rates
DENSE_EVENT, EXPERT_EVENT, WAIT_EVENT, CPU_EVENT, STORAGE_EVENT, HOST_EVENT = range(6)
MOST_TOGETHER = 2**16  # experts of a group
MOST_EXPERTS, MOST_TOKENS = 2**12, 2**15  # of a layer, that a pattern has room for
SLOTS = 256  # patterns of a layer that are remembered
MIXES = np.int64(-7046029254386353131)  # 2**64 over the golden ratio
EVENT_COLUMNS = 4  # kind, step, layer, lane

Reals = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint16]


class Load(NamedTuple):
    """What each step computes and reads; J: MoE layers.

    tokens: int64[steps], tokens of a step
    kv_tokens: int64[steps], cached tokens that its attention reads
    needed: uint16[steps, J], distinct experts at each MoE layer
    far: uint16[steps, J], those of them that are read from storage when the layer is reached
    near: uint16[steps, J], those of them that are read from host memory then, before the others, for their link would
      be idle otherwise
    early: uint16[steps, J], experts read ahead under PREFETCH, from the farthest link there is
    used: uint16[steps, J], how many of these the layer computes, which are read last and alone are waited for
    cpu: uint16[steps, J], how many of those needed the CPU computes, which are in no other count, while the device
      reads and computes the others
    """

    tokens: Longs
    kv_tokens: Longs
    needed: Counts
    far: Counts
    near: Counts
    early: Counts
    used: Counts
    cpu: Counts


class Mode(NamedTuple):
    """How reads and computing go together.

    depth: how many MoE layers ahead experts are read under PREFETCH
    guessed: they are asked for after what that earlier layer misses, else when it is reached
    overlap: NONE, LAYER or PREFETCH
    at_once: share of the time saved by computing during reads that is really saved
    """

    depth: int
    guessed: bool
    overlap: int
    at_once: float


class Seconds(NamedTuple):
    """What computing takes.

    moe_of: int32[layers], the MoE layer, or -1
    layers: float64[layers, 4], the dense part, per cached token, per token, fixed
    head: float64[3], the head, per token, fixed
    experts: float64[J, 7], an expert, its group's arithmetic per token, lost to contention per expert read while
      others are computed, an expert on the CPU, fixed per expert, the hand-over to the CPU and back, from reaching a
      layer to asking for what it misses
    """

    moe_of: npt.NDArray[np.int32]
    layers: Reals
    head: Reals
    experts: Reals


class Wires(NamedTuple):
    """The two links; in this order storage and host memory.

    far_sizes, near_sizes: float64[J, tensors], bytes of each read of an expert
    rates: float64[2, 4], latency, overhead, seconds per byte, and per byte of a lane
    lanes: int64[2], 0 where there is no link
    """

    far_sizes: Reals
    near_sizes: Reals
    rates: Reals
    lanes: Longs


class Filled(NamedTuple):
    """What is written.

    times: float64[steps]
    parts: float64[steps, 5], their causes
    late: int64[steps, J], experts read ahead that a layer had to wait for
    """

    times: Reals
    parts: Reals
    late: Longs


class Journal(NamedTuple):
    """Events, as far as there is room.

    events: int32[n + 1, 4], kind, step, layer and lane, after a first row with their number
    spans: float64[n, 2], start and end
    """

    events: npt.NDArray[np.int32]
    spans: Reals


class Queues(NamedTuple):
    """What is under way: when lanes and links are free, whose turn it is, and when each read has left storage and is
    there, of the running layer and of the layers that experts are read ahead for."""

    lane_free: Reals
    link_free: Reals
    turn: Longs
    left: Reals
    there: Reals
    early_left: Reals
    early_there: Reals

    @classmethod
    def idle(cls, lanes: Longs, depth: int, most_early: int) -> Queues:
        """Nothing is under way. Made outside the kernel, where each array would take 0.1 s to compile."""
        ahead = depth + 1, most_early + 1
        return cls(
            np.zeros((2, max(1, *lanes.tolist()))), np.zeros(2), np.zeros(2, np.int64), np.zeros(MOST_TOGETHER),
            np.zeros(MOST_TOGETHER), np.zeros(ahead), np.zeros(ahead),
        )  # fmt: skip


class Remembered(NamedTuple):
    """What layers took.

    patterns: int64[J, SLOTS], what a layer needed, from where, and for how many tokens; -1 for none
    found: float64[J, SLOTS, 5], the parts of its time
    """

    patterns: Longs
    found: Reals


@kernel(unfold=True)
def _note(journal, kind, step, layer, lane, start, end):
    """Write an event down if there is room; the first row counts them. Without a journal nothing is compiled."""
    if journal is not None:
        count = journal.events[0, 0]
        if count < journal.spans.shape[0] and end > start:
            row = journal.events[count + 1]
            row[0], row[1], row[2], row[3] = kind, step, layer, lane
            journal.spans[count, 0], journal.spans[count, 1] = start, end
            journal.events[0, 0] = count + 1


@kernel(unfold=True)
def _read(wires, queues, of, size, asked, journal, step, layer):
    """When a read of `size` bytes over link `of`, asked for at `asked`, has ended."""
    lane = queues.turn[of]
    queues.turn[of] = 0 if lane + 1 == wires.lanes[of] else lane + 1
    start = max(asked, queues.lane_free[of, lane])
    ready = start + wires.rates[of, LATENCY]
    free = max(ready, queues.link_free[of]) + wires.rates[of, OVERHEAD] + size * wires.rates[of, PER_BYTE]
    queues.link_free[of] = free
    end = max(free, ready + size * wires.rates[of, LANE_PER_BYTE])
    queues.lane_free[of, lane] = end
    _note(journal, STORAGE_EVENT + of, step, layer, lane, start, end)
    return end


@kernel(unfold=True)
def _fetch(from_storage, wires, queues, j, asked, journal, step, layer):
    """When the tensors of an expert, asked for at `asked`, have all left storage, and when they are there."""
    left = there = asked
    for part in range(wires.far_sizes.shape[1]):
        end = asked
        if from_storage:
            end = _read(wires, queues, STORAGE, wires.far_sizes[j, part], asked, journal, step, layer)
            left = max(left, end)
        if wires.lanes[HOST] > 0:
            end = _read(wires, queues, HOST, wires.near_sizes[j, part], end, journal, step, layer)
        there = max(there, end)
    return left, there


@kernel(unfold=True)
def _issue(ahead, until, early, wires, queues, now, journal):
    """Issue the early reads of all pairs of step and MoE layer up to `until`; returns the first pair that is left."""
    columns, window = early.shape[1], queues.early_there.shape[0]
    while ahead < early.size and ahead <= until:
        at, to, slot = ahead // columns, ahead % columns, ahead % window
        for i in range(early[at, to]):
            queues.early_left[slot, i], queues.early_there[slot, i] = _fetch(
                wires.lanes[STORAGE] > 0, wires, queues, to, now, journal, at, to
            )
        ahead += 1
    return ahead


@kernel(unfold=True)
def _wait(clock, left, there, journal, step, layer):
    """Wait until a read is there, of which until `left` for storage."""
    now = clock[NOW]
    if there > now:
        on_storage = max(0.0, left - now)
        clock[STORAGE_WAIT] += on_storage
        clock[PCIE_WAIT] += there - now - on_storage
        clock[NOW] = there
        _note(journal, WAIT_EVENT, step, layer, 0, now, there)


@kernel(unfold=True)
def _work(clock, part, takes, fixed, kind, journal, step, layer):
    """Compute for `takes` seconds, which count as `part`, and `fixed` seconds."""
    now = clock[NOW]
    clock[part] += takes
    clock[FIXED] += fixed
    clock[NOW] = now + takes + fixed
    _note(journal, kind, step, layer, 0, now, now + takes + fixed)


@kernel(unfold=True)
def _join(clock, ready, handover):
    """Wait for the CPU, which is done at `ready`; as much of it as its hand-over takes counts as fixed."""
    waits = ready - clock[NOW]
    if waits > 0.0:
        fixed = min(waits, handover)
        clock[FIXED] += fixed
        clock[EXPERTS] += waits - fixed
        clock[NOW] = ready


def run_timeline(
    load: Load, mode: Mode, seconds: Seconds, wires: Wires, filled: Filled, journal: Journal | None
) -> None:
    """Fill in the times of all steps, and the journal if there is one."""
    ahead = mode.overlap == PREFETCH and bool(load.early.any())
    queues = Queues.idle(wires.lanes, mode.depth, int(load.early.max()) if ahead else 0)
    clock = np.zeros(NOW + 1)
    if ahead or journal is not None or load.needed.max() >= MOST_EXPERTS or load.tokens.max() >= MOST_TOKENS:
        _run(load, mode, seconds, wires, queues, clock, filled, journal)
        return
    columns = load.needed.shape[1]
    counts = [np.zeros((1, columns), np.uint16) for _ in range(6)]
    one = Load(np.zeros(1, np.int64), np.zeros(1, np.int64), *counts)
    free = Seconds(np.zeros(1, np.int32), np.zeros((1, 4)), np.zeros(3), seconds.experts)
    took = Filled(np.zeros(1), np.zeros((1, NOW)), np.zeros((1, columns), np.int64))
    known = Remembered(np.full((columns, SLOTS), -1), np.zeros((columns, SLOTS, NOW)))
    _run_apart(load, mode, seconds, wires, queues, clock, filled, one, free, took, known)


@kernel
def _run_apart(load, mode, seconds, wires, queues, clock, filled, one, free, took, known):
    """Do what `_run` does where a layer waits for all of its reads, so that it knows nothing of the layers before it:
    every pattern of a layer is timed once, by `_run` of `one` step of one layer that is `free` but for its experts,
    into `took`."""
    tokens, kv_tokens, needed, far, near, _, _, cpu = borrowed(load)
    moe_of, costs, head, _ = borrowed(seconds)
    times, parts, _ = borrowed(filled)
    patterns, found = borrowed(known)
    each = np.zeros(4)  # the dense parts of all layers
    for layer in range(moe_of.size):
        each += costs[layer]
    steps, columns = needed.shape
    for step in range(steps):
        dense = each[0] + kv_tokens[step] * each[1] + tokens[step] * each[2] + head[0] + tokens[step] * head[1]
        experts = storage = pcie = 0.0
        fixed = each[3] + head[2]
        for j in range(columns):
            pattern = np.int64(needed[step, j]) | np.int64(far[step, j]) << 12 | np.int64(near[step, j]) << 24
            pattern |= np.int64(cpu[step, j]) << 36 | tokens[step] << 48
            slot = at((pattern * MIXES >> 40) & (SLOTS - 1))
            if patterns[at(j), slot] != pattern:
                one.tokens[0], free.moe_of[0] = tokens[step], j
                one.needed[0, j], one.cpu[0, j] = needed[step, j], cpu[step, j]
                one.far[0, j], one.near[0, j] = far[step, j], near[step, j]
                clock[:] = 0.0
                queues.lane_free[:] = 0.0
                queues.link_free[:] = 0.0
                _run(one, mode, free, wires, queues, clock, took, None)
                found[at(j), slot], patterns[at(j), slot] = took.parts[0], pattern
            experts += found[at(j), slot, EXPERTS]
            storage += found[at(j), slot, STORAGE_WAIT]
            pcie += found[at(j), slot, PCIE_WAIT]
            fixed += found[at(j), slot, FIXED]
        times[step] = dense + experts + storage + pcie + fixed
        row = parts[step]
        row[DENSE], row[EXPERTS], row[STORAGE_WAIT], row[PCIE_WAIT], row[FIXED] = dense, experts, storage, pcie, fixed


@kernel
def _run(load, mode, seconds, wires, queues, clock, filled, journal):
    tokens, kv_tokens, needed, far, near, early, used, cpu = borrowed(load)
    moe_of, costs, head, experts = borrowed(seconds)
    times, parts, late = borrowed(filled)
    wires, queues, clock = borrowed(wires), borrowed(queues), borrowed(clock)
    depth, guessed, overlap, at_once = mode
    left, there = queues.left, queues.there
    steps, columns = needed.shape
    window = depth + 1
    ahead = 0  # pairs of step and MoE layer whose early reads are issued
    for step in range(steps):
        clock[:NOW] = 0.0
        began = clock[NOW]
        for layer in range(moe_of.size):
            j = moe_of[layer]
            until = step * columns + j + depth if j >= 0 and overlap == PREFETCH else -1
            if not guessed:
                ahead = _issue(ahead, until, early, wires, queues, clock[NOW], journal)
            takes = costs[layer, 0] + kv_tokens[step] * costs[layer, 1] + tokens[step] * costs[layer, 2]
            _work(clock, DENSE, takes, costs[layer, 3], DENSE_EVENT, journal, step, layer)
            if j < 0:
                continue
            wanted, from_host = np.int64(needed[step, j]), np.int64(near[step, j])
            from_storage = np.int64(far[step, j])
            missing = from_host + from_storage
            one, fixed, contention = experts[j, 0], experts[j, 4], experts[j, 2]
            if wanted > 0:
                one += tokens[step] * experts[j, 1] / wanted
            on_cpu, reached = np.int64(cpu[step, j]), clock[NOW]
            here, asked = wanted - on_cpu, reached + experts[j, 6]
            ready, handover = reached, experts[j, 5]
            if on_cpu > 0:
                ready += handover + on_cpu * experts[j, 3]
                _note(journal, CPU_EVENT, step, layer, 0, reached, ready)
            for i in range(missing):
                left[i], there[i] = _fetch(i >= from_host, wires, queues, j, asked, journal, step, layer)
            if guessed:
                ahead = _issue(ahead, until, early, wires, queues, reached, journal)
            if overlap == NONE:
                for i in range(missing):
                    _wait(clock, left[i], there[i], journal, step, layer)
                _work(clock, EXPERTS, here * one, here * fixed, EXPERT_EVENT, journal, step, layer)
                _join(clock, ready, handover)
                continue
            came = np.int64(early[step, j]) if overlap == PREFETCH else 0
            useful = min(min(came, np.int64(used[step, j])), here - missing)
            resident = here - missing - useful
            _work(clock, EXPERTS, resident * one, resident * fixed, EXPERT_EVENT, journal, step, layer)
            slot = (step * columns + j) % window
            last = reached
            # What came for nothing is not waited for, but competed for the memory.
            _work(clock, EXPERTS, (came - useful) * contention, 0.0, EXPERT_EVENT, journal, step, layer)
            for i in range(came - useful, came):
                arrived = queues.early_there[slot, i]
                last = max(last, arrived)
                late[step, j] += arrived > clock[NOW]
                _wait(clock, queues.early_left[slot, i], arrived, journal, step, layer)
                _work(clock, EXPERTS, one + contention, fixed, EXPERT_EVENT, journal, step, layer)
            for i in range(missing):
                last = max(last, there[i])
                _wait(clock, left[i], there[i], journal, step, layer)
                _work(clock, EXPERTS, one + contention, fixed, EXPERT_EVENT, journal, step, layer)
            if came + missing > 0:
                # All that could overlap, one after the other, would take until `in_turn`; a share of the gain is lost.
                in_turn = last + here * (one + fixed) + (came + missing) * contention
                lost = clock[NOW] + (1.0 - at_once) * max(0.0, in_turn - clock[NOW])
                far_off = wires.lanes[STORAGE] > 0 and came + from_storage > 0
                _wait(clock, lost if far_off else clock[NOW], lost, journal, step, layer)
            _join(clock, ready, handover)
        takes = head[0] + tokens[step] * head[1]
        _work(clock, DENSE, takes, head[2], DENSE_EVENT, journal, step, moe_of.size)
        times[step] = clock[NOW] - began
        parts[step] = clock[:NOW]
