"""Count lookups, hits and misses, by phase and by step."""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel


@kernel
def count_needed(steps, offsets, columns, needed):
    """Add the size of every group to needed uint16[n_steps, layers].

    steps int32[groups]; offsets int64[groups + 1]; columns int32[groups], the MoE layer of each group.
    """
    for group in range(steps.size):
        needed[steps[group], columns[group]] += offsets[group + 1] - offsets[group]


@kernel
def count_missed(steps, offsets, columns, hit, missed):
    """Add the misses of every group to missed uint16[n_steps, layers]; hit bool[N], the rest as in `count_needed`."""
    for group in range(steps.size):
        count = np.int64(0)
        for i in range(offsets[group], offsets[group + 1]):
            count += not hit[i]
        missed[steps[group], columns[group]] += count


@kernel
def count_missed_at(steps, offsets, needs, limits, column, missed):
    """Add the misses of every group of one MoE layer at several limits to missed uint16[limits, n_steps, layers].

    needs[N]: the limit from which each lookup hits; limits of that type; column: the MoE layer; the rest as before.
    """
    counts = np.empty(limits.size, np.uint16)
    for group in range(steps.size):
        counts[:] = 0
        for i in range(offsets[group], offsets[group + 1]):
            for number in range(limits.size):
                counts[number] += needs[i] > limits[number]
        for number in range(limits.size):
            missed[number, steps[group], column] += counts[number]


WARMUP, PREFILL, DECODE = 0, 1, 2  # what a lookup counts as; the largest of a step's tokens wins


@kernel
def tally(entries, kinds, hit, first, sizes, table):
    """Add to table int64[3, 4], per kind: lookups, hits, cold misses, bytes of the misses.

    entries[N]; kinds uint8[N]; hit, first bool[N]; sizes int64[n_entries].
    """
    begin = 0
    while begin < entries.size:
        kind, end = kinds[begin], begin + 1
        while end < entries.size and kinds[end] == kind:
            end += 1
        hits = cold = size = np.int64(0)
        for i in range(begin, end):  # in registers, and without a branch
            hits += hit[i]
            cold += first[i] and not hit[i]
            size += sizes[np.int64(entries[i])] * np.int64(not hit[i])
        table[kind, 0] += end - begin
        table[kind, 1] += hits
        table[kind, 2] += cold
        table[kind, 3] += size
        begin = end


@kernel
def tally_layers(entries, kinds, hit, first, layer_of, table):
    """Add to table int64[layers, 3, 3], per layer and kind: lookups, hits, cold misses.

    entries[N]; kinds uint8[N]; hit, first bool[N]; layer_of int64[n_entries], the layer of each entry.
    """
    for i in range(entries.size):
        layer, kind = layer_of[np.int64(entries[i])], np.int64(kinds[i])
        table[layer, kind, 0] += 1
        table[layer, kind, 1] += hit[i]
        table[layer, kind, 2] += first[i] and not hit[i]


@kernel
def depth_histogram(depths, kinds, counts):
    """Add to counts int64[3, n_entries + 1]: lookups per kind and depth. depths[N] unsigned; kinds uint8[N]."""
    for i in range(depths.size):
        counts[np.int64(kinds[i]), np.int64(depths[i])] += 1


@kernel
def count_hits(kinds, hit, counts):
    """Add to counts int64[3]: hits of each kind, in a run for each without a branch. kinds uint8[N]; hit bool[N]."""
    for kind in range(counts.size):
        hits = 0
        for i in range(kinds.size):
            hits += hit[i] & (kinds[i] == kind)
        counts[kind] += hits


@kernel
def peak_by_step(steps, resting, running, fresh, initial, held, delta, peak, total):
    """Fold one layer, taken in execution order, into what all layers hold together at each step.

    steps int32[groups]; resting, running int64[groups] as in `limits`; fresh bool[n_steps]: the cache is emptied
    before the step, down to `initial`; held: what this layer held before the first step; delta, peak, total
    int64[n_steps]. Returns what it holds after the last.
    Afterwards `total[s]` has this layer's residents at the end of step s added, and `peak[s]` is the most that the
    layers so far held in step s above what all layers held before it.
    """
    group = 0
    for step in range(delta.size):
        if fresh[step]:
            held = np.int64(initial)
        while group < steps.size and steps[group] == step:
            peak[step] = max(peak[step], delta[step] + running[group] - held)
            delta[step] += resting[group] - held
            held = resting[group]
            group += 1
        total[step] += held
    return held


@kernel
def shared_with_previous(experts, valid, routed, order, request, position, windows, last, shared, by_request):
    """|E_t ∩ (E_{t-1} ∪ … ∪ E_{t-w})| per window w, summed over the tokens whose predecessor was routed here too.

    experts uint16[rows, k]; valid bool[rows, k] or bool[0, 0]; routed bool[rows] or bool[0]; order int64[tokens], rows
    by request, then position, none twice; request, position int32[rows]; windows int64[m], ascending; last
    int64[n_experts], all -1; shared int64[m], added to; by_request int64[requests in `order`, 2] or int64[0, 2], added
    to: what the shortest window shares, and Σ|E_t|, of each request. Returns Σ|E_t| over those tokens and over `order`.
    """
    k = experts.shape[1]
    masked = valid.size > 0
    wanted = 0
    slots = 0
    begin = 0  # where in `order` the request starts
    number = 0  # which request it is
    apart = by_request.shape[0] > 0
    before = -1  # where in `order` the last token is that was routed here
    for i in range(order.size):
        row = order[i]
        if i and request[row] != request[order[i - 1]]:
            begin = i
            number += 1
        if routed.size and not routed[row]:
            continue
        now = np.int64(position[row])
        paired = before >= begin and now - np.int64(position[order[before]]) == 1
        before = i
        for slot in range(k):
            if masked and not valid[row, slot]:
                continue
            slots += 1
            expert = np.int64(experts[row, slot])
            place = last[expert]
            last[expert] = i
            if not paired:
                continue
            wanted += 1
            if apart:
                by_request[number, 1] += 1
            if place >= begin:
                age = now - np.int64(position[order[place]])
                if apart and age <= windows[0]:
                    by_request[number, 0] += 1
                w = windows.size - 1
                while w >= 0 and age <= windows[w]:
                    shared[w] += 1
                    w -= 1
    return wanted, slots
