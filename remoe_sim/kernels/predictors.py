"""Which experts a predictor names for each group of one layer, the surest first.

offsets int64[groups + 1] and experts int32[N] are the groups of the layer, members in order of last appearance; fresh
bool[groups]: the first group after the cache was emptied, when nothing is known. Written: out_offsets
int64[groups + 1] and out int32[…], the guesses for each group; the kernels return how many there are.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel


@kernel
def guess_previous(offsets, experts, fresh, most, out_offsets, out):
    """The last `most` members of the group before, the most recent first."""
    end = 0
    out_offsets[0] = 0
    for group in range(fresh.size):
        if not fresh[group]:
            first = max(offsets[group - 1], offsets[group] - most)
            for i in range(offsets[group] - 1, first - 1, -1):
                out[end] = experts[i]
                end += 1
        out_offsets[group + 1] = end
    return end


@kernel
def guess_frequent(offsets, experts, fresh, most, counts, ranked, place, out_offsets, out):
    """The `most` experts that most groups before wanted, ties by lower id; scratch: three int64[n_experts]."""
    end = 0
    out_offsets[0] = 0
    for group in range(fresh.size):
        if fresh[group]:
            for expert in range(counts.size):
                counts[expert] = 0
                ranked[expert] = expert
                place[expert] = expert
        for rank in range(min(most, counts.size)):
            if counts[ranked[rank]] == 0:
                break
            out[end] = ranked[rank]
            end += 1
        for i in range(offsets[group], offsets[group + 1]):
            expert = np.int64(experts[i])
            counts[expert] += 1
            at = place[expert]
            while at > 0:
                other = ranked[at - 1]
                if counts[other] > counts[expert] or (counts[other] == counts[expert] and other < expert):
                    break
                ranked[at] = other
                place[other] = at
                at -= 1
            ranked[at] = expert
            place[expert] = at
        out_offsets[group + 1] = end
    return end


@kernel
def count_transitions(sources, source_mask, experts, mask, source_rows, rows, table, uses):
    """Add to table int64[n_sources, n_experts] how often each source expert was followed by each expert, and to uses
    int64[n_sources] how often a source was followed by any.

    sources, experts uint16[tokens, k]; source_mask, mask bool[tokens, k] or bool[0, 0]; source_rows, rows int64[pairs].
    """
    for pair in range(rows.size):
        row, before = rows[pair], source_rows[pair]
        followed = False
        for slot in range(experts.shape[1]):
            followed = followed or not mask.size or mask[row, slot]
        for i in range(sources.shape[1]):
            if not followed or (source_mask.size and not source_mask[before, i]):
                continue
            source = np.int64(sources[before, i])
            uses[source] += 1
            for slot in range(experts.shape[1]):
                if not mask.size or mask[row, slot]:
                    table[source, np.int64(experts[row, slot])] += 1


@kernel
def guess_likely(source_offsets, source_experts, source, table, uses, most, score, out_offsets, out):
    """The `most` experts with the largest sum, over the members of the source group, of the share of that member's uses
    that the expert followed; ties by lower id, none with a sum of 0.

    source int64[groups], which group of the source layer each group goes by, -1 for none; score float64[n_experts].
    """
    end = 0
    out_offsets[0] = 0
    for group in range(source.size):
        if source[group] >= 0:
            score[:] = 0.0
            for i in range(source_offsets[source[group]], source_offsets[source[group] + 1]):
                before = np.int64(source_experts[i])
                if uses[before]:
                    for expert in range(score.size):
                        score[expert] += table[before, expert] / uses[before]
            for _ in range(min(most, score.size)):
                best = 0
                for expert in range(1, score.size):
                    if score[expert] > score[best]:
                        best = expert
                if score[best] <= 0.0:
                    break
                out[end] = best
                end += 1
                score[best] = -1.0
        out_offsets[group + 1] = end
    return end


@kernel
def guess_noisy(offsets, experts, named, wrong, draws, marks, pool, out_offsets, out):
    """The named members of each group, then as many others as `wrong` says, drawn without replacement.

    named bool[N]; wrong int64[groups]; draws float64[sum of wrong], from 0 to below 1; scratch: marks, all -1, and pool
    int64[n_experts].
    """
    end = 0
    drawn = 0
    out_offsets[0] = 0
    for group in range(wrong.size):
        for i in range(offsets[group], offsets[group + 1]):
            marks[np.int64(experts[i])] = group
            if named[i]:
                out[end] = experts[i]
                end += 1
        others = 0
        for expert in range(marks.size):
            if marks[expert] != group:
                pool[others] = expert
                others += 1
        for _ in range(wrong[group]):
            at = np.int64(draws[drawn] * others)
            drawn += 1
            out[end] = pool[at]
            end += 1
            others -= 1
            pool[at] = pool[others]
        out_offsets[group + 1] = end
    return end


@kernel
def guess_ahead(ahead, mask, rows, starts, most, times, ranks, named, out_offsets, out):
    """The experts that the look-ahead of most tokens of a step names, ties by the better rank there, then by lower id.

    ahead uint16[tokens, k]; mask bool[tokens, k] or bool[0, 0]; rows int64[N], rows of ahead; starts int64[groups, 2],
    first and past-the-last of rows for each group, the same where nothing is known; most: of a group, -1 for all;
    scratch: times, all 0, ranks and named int64[n_experts].
    """
    end = 0
    out_offsets[0] = 0
    for group in range(starts.shape[0]):
        count = 0
        for at in range(starts[group, 0], starts[group, 1]):
            for slot in range(ahead.shape[1]):
                if mask.size and not mask[rows[at], slot]:
                    continue
                expert = np.int64(ahead[rows[at], slot])
                if times[expert] == 0:
                    named[count] = expert
                    count += 1
                    ranks[expert] = slot
                times[expert] += 1
                ranks[expert] = min(ranks[expert], slot)
        for i in range(1, count):  # insertion sort, as a group is small
            expert, place = named[i], i
            while place > 0:
                other = named[place - 1]
                if times[other] > times[expert]:
                    break
                if times[other] == times[expert] and (
                    ranks[other] < ranks[expert] or (ranks[other] == ranks[expert] and other < expert)
                ):
                    break
                named[place] = other
                place -= 1
            named[place] = expert
        for i in range(count):
            times[named[i]] = 0
            if most < 0 or i < most:
                out[end] = named[i]
                end += 1
        out_offsets[group + 1] = end
    return end


@kernel
def count_foreseen(ahead, ahead_mask, experts, mask, marks, wanted, foreseen):
    """Add to wanted and foreseen int64[k] how many chosen experts each slot had, and how many of them the look-ahead of
    the same token named; tokens without a look-ahead do not count.

    ahead uint16[tokens, m], experts uint16[tokens, k], masks as in `guess_ahead`; marks int64[n_experts], all -1.
    """
    for row in range(experts.shape[0]):
        known = False
        for slot in range(ahead.shape[1]):
            if not ahead_mask.size or ahead_mask[row, slot]:
                marks[np.int64(ahead[row, slot])] = row
                known = True
        for slot in range(experts.shape[1]):
            if known and (not mask.size or mask[row, slot]):
                wanted[slot] += 1
                foreseen[slot] += marks[np.int64(experts[row, slot])] == row
