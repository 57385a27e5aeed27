"""The slow and obvious simulator: the oracle of everything compiled, written from the semantics alone.

An entry is a pair (layer, expert). An event is one group: what a step needs at a layer, or, in sequential
order, one slot of one decision. Nothing here is fast, or shared with the package that it judges.
"""

from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, combinations, count, groupby

PREFILL, DECODE, WARMUP = "prefill", "decode", "warmup"
PRECEDENCE = (DECODE, PREFILL, WARMUP)  # of a lookup that several tokens want


@dataclass
class Row:  # one token
    request: int
    position: int
    step: int
    phase: str
    decisions: list  # per MoE layer: experts (None = slot not computed), or None = not routed there


@dataclass
class Event:  # one group
    step: int
    layer: int
    request: int  # of the group's first row
    entries: list  # distinct, in order of last appearance
    first: list  # distinct, in order of first appearance
    kind: dict  # entry -> decode | prefill | warmup

    def without(self, pinned):
        left = copy(self)  # with what others told it
        left.entries, left.first = ([one for one in some if one not in pinned] for some in (self.entries, self.first))
        return left


def events(rows, *, order="set", phase="all", warmup=0, reset="never"):
    """The groups in execution order: by step, then layer, then (sequential) row and slot; none is empty."""
    assert order in ("set", "sequential")
    assert reset in ("never", "request")
    assert phase in ("all", DECODE, PREFILL)
    rows = [row for row in rows if phase in ("all", row.phase)]
    if reset == "request" and interleaved(rows):
        raise ValueError("requests interleave: the cache cannot be reset between them")
    steps = {}
    for row, kind in zip(rows, row_kinds(rows, warmup, reset), strict=True):
        steps.setdefault(row.step, []).append((row, kind))
    out = []
    for step in sorted(steps):
        for layer in range(len(rows[0].decisions)):
            wanted = [
                ((layer, expert), row.request, kind)
                for row, kind in steps[step]
                for expert in row.decisions[layer] or []
                if expert is not None
            ]
            groups = [wanted] if order == "set" else [[one] for one in wanted]
            out += [group_event(step, layer, group) for group in groups if group]
    return out


def group_event(step, layer, group):
    kind = {}
    for entry, _, row_kind in group:
        kind[entry] = min(kind.get(entry, WARMUP), row_kind, key=PRECEDENCE.index)
    appearances = [entry for entry, _, _ in group]
    first = list(dict.fromkeys(appearances))
    last = list(dict.fromkeys(reversed(appearances)))[::-1]
    return Event(step, layer, group[0][1], last, first, kind)


def row_kinds(rows, warmup, reset):
    """The phase of each row, or warmup for the first `warmup` decode tokens (of each request when reset)."""
    kinds, decoded = [], {}
    for row in rows:
        who = row.request if reset == "request" else None
        decoded[who] = decoded.get(who, 0) + (row.phase == DECODE)
        kinds.append(WARMUP if row.phase == DECODE and decoded[who] <= warmup else row.phase)
    return kinds


def interleaved(rows):
    turns = [request for request, _ in groupby(rows, key=lambda row: row.request)]
    shared_steps = len({(row.step, row.request) for row in rows}) > len({row.step for row in rows})
    return shared_steps or len(set(turns)) < len(turns)


class History:
    """What a keep-order may look at: the uses of entries in one epoch, from one reset to the next."""

    def __init__(self, epoch, preload):
        self.now = -1  # index of the current event in the epoch
        self.last = {entry: -1 - rank for rank, entry in enumerate(preload)}  # larger = more recent
        self.clock = count()
        self.uses = {}  # entry -> indices of the events that use it, past and future
        for index, event in enumerate(epoch):
            for entry in event.entries:
                self.uses.setdefault(entry, []).append(index)

    def touch(self, event):
        self.now += 1
        self.last.update(zip(event.entries, self.clock, strict=False))

    def past(self, entry):  # the current event included
        return [index for index in self.uses.get(entry, []) if index <= self.now]

    def next_use(self, entry):
        return next((index for index in self.uses.get(entry, []) if index > self.now), float("inf"))


STACK = {  # name -> key: the smaller, the better kept; ties by (layer, expert), the lower kept
    "lru": lambda history, entry: -history.last[entry],
    "lfu": lambda history, entry: (-len(history.past(entry)), -history.last[entry]),
    "belady": History.next_use,
}


class Gate:
    """Which misses may enter, since the caches were emptied: from a use on, and so many per layer and step."""

    def __init__(self, admit_after=1, inserts=None):
        self.admit_after, self.inserts = admit_after, float("inf") if inserts is None else inserts
        self.uses, self.turn = {}, None

    def open(self, event):
        if self.turn != (event.step, event.layer):
            self.turn, self.left = (event.step, event.layer), self.inserts
        for entry in event.entries:
            self.uses[entry] = self.uses.get(entry, 0) + 1

    def admits(self, entry):
        admitted = self.uses[entry] >= self.admit_after and self.left > 0
        self.left -= admitted
        return admitted


def keep_best(key, resident, event, limit, size, admission, gate):
    """S' = top(R ∪ S): the best first, up to the limit, stopping at the first that does not fit. S: those of the group
    that are there or may enter, in order of last appearance."""

    def best(entries):
        return sorted(entries, key=lambda entry: (key(entry), entry))

    group = {entry for entry in event.entries if entry in resident or gate.admits(entry)}
    others = [entry for entry in resident if entry not in group]
    both = best(group) + best(others) if admission == "mandatory" else best([*group, *others])
    return fitting(both, limit, size)


class SlotPolicy:
    """Names the victims of one cache, which decides when; `size(entry)` is in the unit of `limit`."""

    def __init__(self, limit, size):
        self.limit, self.size = limit, size
        self.queue = {}  # resident -> what the policy notes of it; the next to leave first

    def hit(self, entry): ...  # returns residents outside `self.protected` that leave because of it, if any

    def admit(self, entry): ...  # a miss, before any victim is chosen

    def victim(self, protected):
        """Remove and return a resident outside `protected`; None when there is none."""
        first = next((entry for entry in self.queue if entry not in protected), None)
        self.queue.pop(first, None)
        return first

    def insert(self, entry):
        self.queue[entry] = 1


class Fifo(SlotPolicy):
    """First in, first out."""


class LfuForget(SlotPolicy):
    """libCacheSim's LFU: a count dies with eviction; of the least counts, the least recently used leaves."""

    def hit(self, entry):
        self.queue[entry] = self.queue.pop(entry) + 1

    def victim(self, protected):
        free = [entry for entry in self.queue if entry not in protected]
        least = min(free, key=self.queue.get, default=None)  # the first of them
        self.queue.pop(least, None)
        return least


SLOT = {"fifo": Fifo, "lfu-forget": LfuForget}


def touch_each(policy, resident, event, limit, size, admission, gate):
    """A slot policy: the members of the group are touched or inserted once each, by first appearance."""
    resident, policy.protected = set(resident), set(event.entries if admission == "mandatory" else ())

    def evict(down_to, protected):
        while sum(map(size, resident)) > down_to:
            victim = policy.victim(protected)
            resident.remove(policy.victim(set()) if victim is None else victim)

    for entry in event.first:
        if entry in resident:
            resident.difference_update(policy.hit(entry) or ())
        elif size(entry) <= limit and gate.admits(entry):
            policy.admit(entry)
            if admission == "mandatory":
                evict(limit - size(entry), policy.protected)
            policy.insert(entry)
            resident.add(entry)
            evict(limit, set())  # bypass only: mandatory has made room
    return resident


def fitting(entries, limit, size):
    """The longest beginning of `entries` that fits (no entry has size 0)."""
    used = accumulate(map(size, entries))
    return [entry for entry, so_far in zip(entries, used, strict=True) if so_far <= limit]


def replay(
    rows, policy, *, limit, scope="layer", sizes=None, admission="mandatory", admit_after=1, inserts=None, preload=(),
    pinned=(), **grouping,
):  # fmt: skip
    """Counts of one policy, without lookups of `pinned` entries; `grouping` goes to events().

    `limit` is a list with one per layer, or one number in scope global; it counts entries, or bytes where
    `sizes` (bytes of an expert, per layer) are given. `preload`: entries to start with, most used first.
    """
    assert scope in ("layer", "global")
    assert admission in ("mandatory", "bypass")
    limits = list(limit) if scope == "layer" else [limit]
    preload = list(preload or [])

    def size(entry):
        return 1 if sizes is None else sizes[entry[0]]

    def load(entries):
        return sum(map(size, entries))

    def start(index):
        return fitting([e for e in preload if scope == "global" or e[0] == index], limits[index], size)

    def order(index, history):
        if policy in STACK:
            return partial(STACK[policy], history)
        slots = SLOT[policy](limits[index], size)
        for entry in reversed(start(index)):  # the most used comes last
            slots.insert(entry)
        return slots

    access = keep_best if policy in STACK else touch_each
    lookups, missed, evictions, peak = [], [], 0, 0
    by_request = grouping.get("reset") == "request"
    groups = [event.without(pinned) for event in events(rows, **grouping)]
    epochs = groupby(groups, key=lambda event: by_request and event.request)
    for epoch in [list(epoch) for _, epoch in epochs]:
        history, gate = History(epoch, preload), Gate(admit_after, inserts)
        orders = [order(index, history) for index in range(len(limits))]
        caches = [start(index) for index in range(len(limits))]
        held = list(map(load, caches))
        ever_used = set()  # since the caches were emptied
        for event in epoch:
            history.touch(event)
            index = event.layer if scope == "layer" else 0
            if not event.entries:  # of pinned ones only
                peak = max(peak, sum(held))
                continue
            gate.open(event)
            before, group = set(caches[index]), set(event.entries)
            caches[index] = access(orders[index], caches[index], event, limits[index], size, admission, gate)
            after = set(caches[index])
            held[index] = load(group | (after if admission == "mandatory" else before))
            peak = max(peak, sum(held))
            held[index] = load(after)
            assert held[index] <= limits[index]
            for entry in group:
                cold = entry not in before and entry not in ever_used
                lookups.append((event.kind[entry], entry in before, size(entry), cold))
            ever_used |= group
            missed.append(len(group - before))
            evictions += len(before - after)
    return summary(lookups, sizes) | {"evictions": evictions, "peak_resident": peak, "missed": missed}


def summary(lookups, sizes):
    counts = {}
    for phase in (PREFILL, DECODE):
        mine = [(hit, size) for kind, hit, size, _ in lookups if kind == phase]
        read = None if sizes is None else sum(size for hit, size in mine if not hit)
        counts[phase] = {"lookups": len(mine), "hits": sum(hit for hit, _ in mine), "bytes_read": read}
    totals = {what: counts[PREFILL][what] + counts[DECODE][what] for what in ("lookups", "hits")}
    misses = totals["lookups"] - totals["hits"]
    cold = sum(cold for kind, _, _, cold in lookups if kind != WARMUP)
    return counts | totals | {"misses": misses, "cold_misses": cold, "capacity_misses": misses - cold}


def reuse(rows, window=1):
    """Per layer (shared, wanted): what decode tokens wanted, and what the `window` tokens before did too."""
    out = []
    for layer in range(len(rows[0].decisions) if rows else 0):
        wants = {
            (row.request, row.position): {expert for expert in row.decisions[layer] if expert is not None}
            for row in rows
            if row.phase == DECODE and row.decisions[layer] is not None
        }
        shared = wanted = 0
        for (request, position), experts in wants.items():
            if (request, position - 1) in wants:
                earlier = [wants.get((request, position - back), set()) for back in range(1, window + 1)]
                shared += len(experts & set().union(*earlier))
                wanted += len(experts)
        out.append((shared, wanted))
    return out


def exhaustive_optimum(events, limit, admission):
    """The fewest misses that any rule can reach in one cache of `limit` entries, by trying all contents."""
    fewest = {frozenset(): 0}  # content -> fewest misses that lead to it
    for event in events:
        group, after = set(event.entries), {}
        for content, misses in fewest.items():
            misses += len(group - content)
            for kept in subsets(group | content, limit):
                if admission == "bypass" or (group <= kept if len(group) <= limit else kept <= group):
                    after[kept] = min(misses, after.get(kept, misses))
        fewest = after
    return min(fewest.values())


def subsets(entries, limit):
    lengths = range(min(limit, len(entries)) + 1)
    return map(frozenset, chain.from_iterable(combinations(entries, length) for length in lengths))
