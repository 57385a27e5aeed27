"""Belady's rule weighed by size: the largest product of size and distance to the next use goes first."""

from __future__ import annotations

import numpy as np
from remoe_sim.policies.belady import Belady

from remoe_sim.kernels.arguments import GroupedAccesses, Stock, Written
from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.limits import _pop, _push
from remoe_sim.policy import Outcome, Rules, Stream
from remoe_sim.policy.stack import all_keys


class BeladySize(Belady):  # type: ignore[misc]
    """Distance counts groups from the running one to the next that uses the entry; what is never used again goes
    before all others, ties keep the lower entry. A heuristic: no optimum where sizes differ.

    Where all entries take the same of the limit (one layer, or a limit in experts) this is Belady's order, exactly.
    """

    name = "belady-size"
    summary = "largest size × distance to the next use goes first: a heuristic for unequal sizes, not the optimum"
    source = "Belady-Size, Berger, Beckmann, Harchol-Balter: Practical bounds on optimal caching, 2018"
    optimal = False

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        if stream.equal_sizes:
            plain: Outcome = super().replay(stream, limit, rules)
            return plain
        keys, preload_keys = all_keys(self, stream, rules)
        groups = stream.steps.size
        group_at = np.repeat(np.arange(groups), np.diff(stream.offsets))  # of each of Belady's places
        group_at = np.append(group_at, np.full(stream.n_entries, groups))
        distinct, kind = np.unique(stream.sizes, return_inverse=True)
        room = 4 * np.bincount(kind) + 16
        hit = np.empty(stream.entries.size, np.bool_)
        resting, running = np.empty(groups, np.int64), np.empty(groups, np.int64)
        accesses = GroupedAccesses(stream.offsets, stream.entries, stream.steps, stream.epochs)
        stock = Stock(distinct, stream.weights, rules.preload)
        kinds = kind.astype(np.int64), np.append(0, np.cumsum(room))
        evictions = sized_replay(
            accesses, group_at[keys], group_at[preload_keys], stock, *kinds, limit, rules.mandatory,
            Written(hit, resting, running),
        )  # fmt: skip
        return Outcome(hit, evictions, resting, running)


@kernel
def sized_replay(accesses, keys, preload_keys, stock, kind, bounds, limit, mandatory, written):
    """Do what `limits.ordered_replay` does, but evict the largest size × (key − running group) first, which changes
    with every group; returns the evictions.

    keys int64[N]: the group that uses the entry next, the number of groups if none does; preload_keys likewise.
    stock.sizes int64[k]: all different sizes; kind int64[n_entries]: which of them each entry has. Entries of one size
    never change their order, so each size has a heap of its own, in heap[bounds[i]:bounds[i + 1]], and only the k tops
    have to be compared.
    """
    offsets, entries, _, epochs = accesses
    sizes, weights, preload = stock
    hit, resting, running = written
    n = kind.size
    groups = offsets.size - 1
    key = np.empty(n, np.int64)
    resident = np.zeros(n, np.bool_)
    heap_keys = np.empty(bounds[-1], np.int64)
    heap = np.empty(bounds[-1], np.int64)
    pushed = np.zeros(sizes.size, np.int64)
    evictions = 0
    for epoch in range(epochs.size - 1):
        resident[:] = False
        pushed[:] = 0
        used = np.int64(0)
        held = np.int64(0)
        for rank in range(preload.size):
            entry = np.int64(preload[rank])
            if used + sizes[kind[entry]] > limit:
                break
            used += sizes[kind[entry]]
            held += weights[entry]
            resident[entry] = True
            key[entry] = preload_keys[epoch % preload_keys.shape[0], entry]
            _push_sized(heap, heap_keys, pushed, bounds, kind, entry, key[entry])
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            _make_room(heap, heap_keys, pushed, bounds, kind, resident, key, end - begin)
            for i in range(begin, end):
                entry = np.int64(entries[i])
                hit[i] = resident[entry]
                key[entry] = keys[i]  # what a heap still says of it is stale from here on
                if not resident[entry]:
                    used += sizes[kind[entry]]
                    held += weights[entry]
                    resident[entry] = True
            together = held  # S ∪ R
            kept = end - begin if mandatory else 0  # members that may not leave
            for i in range(begin + kept, end):
                _push_sized(heap, heap_keys, pushed, bounds, kind, np.int64(entries[i]), keys[i])
            while used > limit:
                worst = _worst_kind(heap, heap_keys, pushed, bounds, sizes, resident, key, group, groups)
                if worst < 0:  # only members are left
                    for i in range(begin, begin + kept):
                        _push_sized(heap, heap_keys, pushed, bounds, kind, np.int64(entries[i]), keys[i])
                    kept = 0
                    continue
                low, high = bounds[worst], bounds[worst + 1]
                leaving = heap[low]
                pushed[worst] -= 1
                _pop(heap[low:high], heap_keys[low:high], pushed[worst])
                resident[leaving] = False
                used -= sizes[worst]
                held -= weights[leaving]
                evictions += 1
            outside = np.int64(0)  # bytes of the members that are not kept
            for i in range(begin, end):
                entry = np.int64(entries[i])
                if not resident[entry]:
                    outside += weights[entry]
                    evictions -= not hit[i]  # it never entered
            for i in range(begin, begin + kept):
                _push_sized(heap, heap_keys, pushed, bounds, kind, np.int64(entries[i]), keys[i])
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return evictions


@kernel
def _push_sized(heap, heap_keys, pushed, bounds, kind, entry, key):
    of = kind[entry]
    low, high = bounds[of], bounds[of + 1]
    _push(heap[low:high], heap_keys[low:high], pushed[of], entry, key)
    pushed[of] += 1


@kernel
def _worst_kind(heap, heap_keys, pushed, bounds, sizes, resident, key, group, never):
    """The size whose top goes first, tops that went stale removed; -1 if all heaps are empty."""
    worst, worst_cost, worst_entry = -1, np.int64(0), np.int64(0)
    for of in range(sizes.size):
        low, high = bounds[of], bounds[of + 1]
        while pushed[of] > 0 and not (resident[heap[low]] and key[heap[low]] == heap_keys[low]):
            pushed[of] -= 1
            _pop(heap[low:high], heap_keys[low:high], pushed[of])
        if pushed[of] == 0:
            continue
        cost = sizes[of] * (heap_keys[low] - group) if heap_keys[low] < never else np.int64(2**63 - 1)
        if worst < 0 or cost > worst_cost or (cost == worst_cost and heap[low] > worst_entry):
            worst, worst_cost, worst_entry = of, cost, heap[low]
    return worst


@kernel
def _make_room(heap, heap_keys, pushed, bounds, kind, resident, key, coming):
    """Rebuild every heap that `coming` more could overflow from its residents, without what went stale."""
    for of in range(pushed.size):
        if pushed[of] + coming > bounds[of + 1] - bounds[of]:
            pushed[of] = 0
            for entry in range(kind.size):
                if resident[entry] and kind[entry] == of:
                    _push_sized(heap, heap_keys, pushed, bounds, kind, entry, key[entry])
