"""The timeline of steps on one device: dense parts and experts one after the other, reads over one or two links.

A link has lanes that take turns: a read waits for its lane, `latency` passes, then the transfers of all lanes follow
each other in the order of issue, each taking `overhead` + bytes / `bandwidth` of the link; a lane alone is not faster
than its own bandwidth. Where reading slows computing down, only a share of what could overlap does. All times are
weighted sums and maxima of what is given, so nothing gets faster when a read is added or a link slows down.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel

NONE, LAYER, PREFETCH = 0, 1, 2  # overlap
DENSE, EXPERTS, STORAGE_WAIT, PCIE_WAIT, FIXED, NOW = range(6)  # of the clock; columns of parts are all before NOW
LATENCY, OVERHEAD, PER_BYTE, LANE_PER_BYTE = range(4)  # columns of links, seconds
STORAGE, HOST = 0, 1  # rows of links
DENSE_EVENT, EXPERT_EVENT, WAIT_EVENT, CPU_EVENT, STORAGE_EVENT, HOST_EVENT = range(6)
MOST_TOGETHER = 2**16  # experts of a group
EVENT_COLUMNS = 4  # kind, step, layer, lane


@kernel(unfold=True)
def _note(log, spans, kind, step, layer, lane, start, end):
    """Write an event down if there is room; log[0, 0] counts them. Without a log nothing of this is compiled."""
    if log is not None:
        count = log[0, 0]
        if count < spans.shape[0] and end > start:
            log[count + 1, 0], log[count + 1, 1], log[count + 1, 2], log[count + 1, 3] = kind, step, layer, lane
            spans[count, 0], spans[count, 1] = start, end
            log[0, 0] = count + 1


@kernel(unfold=True)
def _read(link, of, lane_free, link_free, turn, lanes, size, asked, log, spans, step, layer):
    """When a read of `size` bytes over link `of`, asked for at `asked`, has ended."""
    lane = turn[of]
    turn[of] = 0 if lane + 1 == lanes[of] else lane + 1
    start = max(asked, lane_free[of, lane])
    ready = start + link[of, LATENCY]
    link_free[of] = max(ready, link_free[of]) + link[of, OVERHEAD] + size * link[of, PER_BYTE]
    end = max(link_free[of], ready + size * link[of, LANE_PER_BYTE])
    lane_free[of, lane] = end
    _note(log, spans, STORAGE_EVENT + of, step, layer, lane, start, end)
    return end


@kernel(unfold=True)
def _fetch(
    from_storage, j, far_sizes, near_sizes, link, lane_free, link_free, turn, lanes, asked, log, spans, step, layer
):
    """When the tensors of an expert, asked for at `asked`, have all left storage, and when they are there."""
    left = there = asked
    for part in range(far_sizes.shape[1]):
        end = asked
        if from_storage:
            end = _read(
                link, STORAGE, lane_free, link_free, turn, lanes, far_sizes[j, part], asked, log, spans, step, layer
            )
            left = max(left, end)
        if lanes[HOST] > 0:
            end = _read(
                link, HOST, lane_free, link_free, turn, lanes, near_sizes[j, part], end, log, spans, step, layer
            )
        there = max(there, end)
    return left, there


@kernel(unfold=True)
def _wait(clock, left, there, log, spans, step, layer):
    """Wait until a read is there, of which until `left` for storage."""
    now = clock[NOW]
    if there > now:
        on_storage = max(0.0, left - now)
        clock[STORAGE_WAIT] += on_storage
        clock[PCIE_WAIT] += there - now - on_storage
        clock[NOW] = there
        _note(log, spans, WAIT_EVENT, step, layer, 0, now, there)


@kernel(unfold=True)
def _work(clock, part, takes, fixed, kind, log, spans, step, layer):
    """Compute for `takes` seconds, which count as `part`, and `fixed` seconds."""
    now = clock[NOW]
    clock[part] += takes
    clock[FIXED] += fixed
    clock[NOW] = now + takes + fixed
    _note(log, spans, kind, step, layer, 0, now, now + takes + fixed)


@kernel(unfold=True)
def _issue(
    ahead, until, early, early_left, early_there, far_sizes, near_sizes, link, lane_free, link_free, turn, lanes, now,
    log, spans,
):  # fmt: skip
    """Issue the early reads of all pairs of step and MoE layer up to `until`; returns the first pair that is left."""
    columns, window = early.shape[1], early_there.shape[0]
    while ahead < early.size and ahead <= until:
        at, to, slot = ahead // columns, ahead % columns, ahead % window
        for i in range(early[at, to]):
            early_left[slot, i], early_there[slot, i] = _fetch(
                lanes[STORAGE] > 0, to, far_sizes, near_sizes, link, lane_free, link_free, turn, lanes, now, log, spans,
                at, to,
            )  # fmt: skip
        ahead += 1
    return ahead


@kernel
def run_timeline(
    tokens, kv_tokens, needed, far, near, early, used, depth, guessed, overlap, at_once, on_cpu, moe_of, layer_costs,
    head_costs, expert_costs, far_sizes, near_sizes, link, lanes, times, parts, late, log, spans,
):  # fmt: skip
    """Fill times float64[steps], parts float64[steps, 5], their causes, and late int64[steps, J], the experts read
    ahead that a layer had to wait for.

    tokens, kv_tokens int64[steps]: tokens of a step, and cached tokens that its attention reads; needed uint16[steps,
    J]: distinct experts at each MoE layer; far, near uint16[steps, J]: those of them that are read from storage and
    from host memory when the layer is reached, the latter first, as their link would be idle otherwise; early
    uint16[steps, J]: experts read `depth` MoE layers ahead under PREFETCH, from the farthest link there is; used
    uint16[steps, J]: how many of them the layer computes, which are read last and alone are waited for; guessed: they
    are asked for after what that earlier layer misses, else when it is reached. at_once: share of the time saved by
    computing during reads that is really saved. on_cpu: misses are computed where they lie. moe_of int32[layers]: the
    MoE layer, or -1; layer_costs float64[layers, 4]: seconds of the dense part, per cached token, per token, fixed;
    head_costs float64[3]: seconds, per token, fixed; expert_costs float64[J, 5]: seconds of an expert, of the group's
    arithmetic per token, lost to contention per expert read while others are computed, of one on the CPU, fixed per
    expert; far_sizes, near_sizes float64[J, tensors]: bytes of each read of an expert. link float64[2, 4]; lanes
    int64[2], 0 where there is no link. Events are written down as far as there is room unless both are None: log
    int32[n + 1, 4], kind, step, layer and lane after a first row with their number; spans float64[n, 2], start and end.
    """
    steps, columns = needed.shape
    most = max(1, max(lanes[0], lanes[1]))
    lane_free, link_free, turn = np.zeros((2, most)), np.zeros(2), np.zeros(2, np.int64)
    left, there = np.zeros(MOST_TOGETHER), np.zeros(MOST_TOGETHER)  # of the running layer's reads
    window = depth + 1
    early_left, early_there = np.zeros((window, early.max() + 1)), np.zeros((window, early.max() + 1))
    ahead = 0  # pairs of step and MoE layer whose early reads are issued
    clock = np.zeros(6)
    for step in range(steps):
        clock[:NOW] = 0.0
        began = clock[NOW]
        for layer in range(moe_of.size):
            j = moe_of[layer]
            until = step * columns + j + depth if j >= 0 and overlap == PREFETCH else -1
            if not guessed:
                ahead = _issue(
                    ahead, until, early, early_left, early_there, far_sizes, near_sizes, link, lane_free, link_free,
                    turn, lanes, clock[NOW], log, spans,
                )  # fmt: skip
            takes = (
                layer_costs[layer, 0] + kv_tokens[step] * layer_costs[layer, 1] + tokens[step] * layer_costs[layer, 2]
            )
            _work(clock, DENSE, takes, layer_costs[layer, 3], DENSE_EVENT, log, spans, step, layer)
            if j < 0:
                continue
            wanted, from_host = np.int64(needed[step, j]), np.int64(near[step, j])
            from_storage = np.int64(far[step, j])
            missing = from_host + from_storage
            one, fixed, contention = expert_costs[j, 0], expert_costs[j, 4], expert_costs[j, 2]
            if wanted > 0:
                one += tokens[step] * expert_costs[j, 1] / wanted
            asked = clock[NOW]
            if on_cpu:
                ready = asked + missing * expert_costs[j, 3]
                resident = wanted - missing
                _work(clock, EXPERTS, resident * one, resident * fixed, EXPERT_EVENT, log, spans, step, layer)
                _note(log, spans, CPU_EVENT, step, layer, 0, asked, ready)
                clock[EXPERTS] += max(0.0, ready - clock[NOW])
                clock[NOW] = max(clock[NOW], ready)
                continue
            for i in range(missing):
                left[i], there[i] = _fetch(
                    i >= from_host, j, far_sizes, near_sizes, link, lane_free, link_free, turn, lanes, asked, log,
                    spans, step, layer,
                )  # fmt: skip
            if guessed:
                ahead = _issue(
                    ahead, until, early, early_left, early_there, far_sizes, near_sizes, link, lane_free, link_free,
                    turn, lanes, asked, log, spans,
                )  # fmt: skip
            if overlap == NONE:
                for i in range(missing):
                    _wait(clock, left[i], there[i], log, spans, step, layer)
                _work(clock, EXPERTS, wanted * one, wanted * fixed, EXPERT_EVENT, log, spans, step, layer)
                continue
            came = np.int64(early[step, j]) if overlap == PREFETCH else 0
            useful = min(min(came, np.int64(used[step, j])), wanted - missing)
            resident = wanted - missing - useful
            _work(clock, EXPERTS, resident * one, resident * fixed, EXPERT_EVENT, log, spans, step, layer)
            slot = (step * columns + j) % window
            last = asked
            _work(clock, EXPERTS, (came - useful) * contention, 0.0, EXPERT_EVENT, log, spans, step, layer)
            for i in range(came - useful, came):
                last = max(last, early_there[slot, i])
                late[step, j] += early_there[slot, i] > clock[NOW]
                _wait(clock, early_left[slot, i], early_there[slot, i], log, spans, step, layer)
                _work(clock, EXPERTS, one + contention, fixed, EXPERT_EVENT, log, spans, step, layer)
            for i in range(missing):
                last = max(last, there[i])
                _wait(clock, left[i], there[i], log, spans, step, layer)
                _work(clock, EXPERTS, one + contention, fixed, EXPERT_EVENT, log, spans, step, layer)
            if came + missing == 0:
                continue
            in_turn = last + wanted * (one + fixed) + (came + missing) * contention
            lost = clock[NOW] + (1.0 - at_once) * max(0.0, in_turn - clock[NOW])
            far_off = lanes[STORAGE] > 0 and came + from_storage > 0
            _wait(clock, lost if far_off else clock[NOW], lost, log, spans, step, layer)
        takes = head_costs[0] + tokens[step] * head_costs[1]
        _work(clock, DENSE, takes, head_costs[2], DENSE_EVENT, log, spans, step, moe_of.size)
        times[step] = clock[NOW] - began
        parts[step] = clock[:NOW]
