"""The slow and obvious replay through two tiers above storage: everything at once, one group after the other.

Written from the semantics in `remoe_sim.studies.tiers`. Unlike there, device and host take turns at every group here,
and a key is asked for when it is needed. Only what a host policy may know of the future comes from a first run.
"""

from dataclasses import dataclass, replace
from functools import partial

from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, WARMUP, History


class Cache:
    """One cache of a tier, driven from outside; knows what it holds, and in which order things leave."""

    def __init__(self, policy, limit, size, admission, events):
        self.limit, self.size, self.mandatory = limit, size, admission == "mandatory"
        self.held = set()
        self.history = History(events, ())
        self.key = partial(naive.STACK[policy], self.history) if policy in naive.STACK else None
        self.slots = None if self.key else naive.SLOT[policy](limit, size)
        self.pinned = set()  # what the tier above holds

    def load(self, entries):
        return sum(map(self.size, entries))

    def learn(self, event):
        self.history.touch(event)

    def move_up(self, entry):
        self.held.remove(entry)
        if self.slots:
            self.slots.hit(entry)
            self.slots.queue.pop(entry)

    def take(self, event):
        """The group comes in; what was there or came and is there no more, in the order of leaving."""
        there = self._rank(event) if self.key else self._touch(event)
        last = {entry: place for place, entry in enumerate(there)}
        assert self.load(self.held) <= self.limit
        return [entry for entry in sorted(last, key=last.get) if entry not in self.held]

    def _rank(self, event):
        def best(entries):
            return sorted(entries, key=lambda entry: (self.key(entry), entry))

        members, others = set(event.entries) - self.pinned, self.held - set(event.entries) - self.pinned
        firm = self.pinned & (self.held | set(event.entries))
        rest = best(members) + best(others) if self.mandatory else best(members | others)
        kept = naive.fitting([*best(firm), *rest], self.limit, self.size)
        assert firm <= set(kept)
        self.held = set(kept)
        return [entry for entry in reversed(rest) if entry not in self.held]

    def _touch(self, event):
        leaving = []

        def evict(down_to, protected):
            while self.load(self.held) > down_to:
                victim = self.slots.victim(protected | self.pinned)
                victim = self.slots.victim(self.pinned) if victim is None else victim
                self.held.remove(victim)
                leaving.append(victim)

        for entry in event.first:
            if entry in self.held:
                self.slots.hit(entry)
            elif entry not in self.pinned and self.size(entry) > self.limit - self.load(self.pinned):
                leaving.append(entry)
            else:
                self.slots.admit(entry)
                if self.mandatory:
                    evict(self.limit - self.size(entry), set(event.entries))
                self.slots.insert(entry)
                self.held.add(entry)
                evict(self.limit, set())
        return leaving


class Hierarchy:
    """Both tiers of one epoch. `futures`: what each host cache will see, for policies that know it."""

    def __init__(self, device, host, relation, admission, events, futures):
        self.relation, self.device_spec, self.host_spec = relation, device, host
        self.device = [
            Cache(
                device.policy, limit, device.size, admission, [event for event in events if device.at(event) == index]
            )
            for index, limit in enumerate(device.limits)
        ]
        self.host = [
            Cache(host.policy, limit, host.size, admission, futures[index] if futures else [])
            for index, limit in enumerate(host.limits)
        ]
        self.seen = [[] for _ in self.host]  # by each host cache

    def step(self, event):
        """(hits on the device, hits in the host, came down and stayed, lost by the device, lost by the host)."""
        device = self.device[self.device_spec.at(event)]
        on_device = {entry for cache in self.device for entry in cache.held}
        in_host = {entry for cache in self.host for entry in cache.held}
        group = set(event.entries)
        hits, missed = group & on_device, group - on_device
        device.learn(event)
        left = device.take(event)
        now_on_device = {entry for cache in self.device for entry in cache.held}
        wanted = part(event, missed)
        down = []
        for index, host in enumerate(self.host):
            mine = partial(self._in_host_cache, index)
            lookups = part(wanted, mine(wanted.entries))
            if self.relation == "inclusive":
                host.pinned = set(mine(now_on_device))
            self._see(index, lookups)
            if self.relation == "exclusive":
                for entry in lookups.first:
                    if entry in in_host:
                        host.move_up(entry)
                arrivals = replace(event, entries=mine(left), first=mine(left))
                self._see(index, arrivals)
                if arrivals.entries:
                    host.take(arrivals)
                down += [entry for entry in arrivals.entries if entry in on_device and entry in host.held]
            elif lookups.entries:
                host.take(lookups)
        self._check(now_on_device)
        now_in_host = {entry for cache in self.host for entry in cache.held}
        lost = in_host - now_in_host - (now_on_device if self.relation == "exclusive" else set())
        return hits, missed & in_host, down, on_device - now_on_device, lost

    def _in_host_cache(self, index, entries):
        return [entry for entry in entries if not self.host_spec.per_layer or entry[0] == index]

    def _see(self, index, event):
        if event.entries:
            self.seen[index].append(event)
            self.host[index].learn(event)

    def _check(self, on_device):
        in_host = {entry for cache in self.host for entry in cache.held}
        if self.relation == "inclusive":
            assert on_device <= in_host
        if self.relation == "exclusive":
            assert not on_device & in_host


def part(event, kept):
    kept = set(kept)
    return replace(event, entries=[e for e in event.entries if e in kept], first=[e for e in event.first if e in kept])


@dataclass
class Spec:
    """A tier: policy, limits (one per layer, or a single one that all layers share), sizes where limits are bytes."""

    policy: str
    limits: list
    sizes: tuple | None = None
    per_layer: bool = True

    def at(self, event):
        return event.layer if self.per_layer else 0

    def size(self, entry):
        return 1 if self.sizes is None else self.sizes[entry[0]]


def tiers(rows, device, host, relation, *, admission="mandatory", sizes=None, **grouping):
    """Counts by phase; `sizes`: bytes of an expert, per layer; `grouping` goes to naive.events()."""
    by_request = grouping.get("reset") == "request"
    epochs = {}
    for event in naive.events(rows, **grouping):
        epochs.setdefault(by_request and event.request, []).append(event)
    counts = {
        phase: dict.fromkeys(("lookups", "device_hits", "host_hits", "to_host", "to_device", "down"), 0)
        for phase in (PREFILL, DECODE, WARMUP)
    }
    lost = [0, 0]
    for events in epochs.values():
        rehearsal = Hierarchy(device, replace(host, policy="lru"), relation, admission, events, None)
        futures = None
        if host.policy in naive.STACK:  # what the host sees does not depend on its policy, only the device decides
            for event in events:
                rehearsal.step(event)
            futures = rehearsal.seen
        both = Hierarchy(device, host, relation, admission, events, futures)
        for event in events:
            on_device, in_host, down, device_lost, host_lost = both.step(event)
            lost[0] += len(device_lost)
            lost[1] += len(host_lost)
            for entry in event.entries:
                size = 0 if sizes is None else sizes[entry[0]]
                count = counts[event.kind[entry]]
                count["lookups"] += 1
                count["device_hits"] += entry in on_device
                count["host_hits"] += entry in in_host
                count["to_device"] += size * (entry not in on_device)
                count["to_host"] += size * (entry not in on_device and entry not in in_host)
            phase = min(event.kind.values(), key=naive.PRECEDENCE.index)
            counts[phase]["down"] += sum(0 if sizes is None else sizes[entry[0]] for entry in down)
    return {phase: counts[phase] for phase in (PREFILL, DECODE)} | {"evictions": tuple(lost)}
