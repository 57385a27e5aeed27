"""Twins of policies for the oracle: importing this adds them to naive.STACK and naive.SLOT.

A key or a slot policy is told here what naive.py alone does not tell it: the number of the forward pass (steps that
take part, counted from 0) and what an entry takes of the limit.
"""

from collections import Counter
from fractions import Fraction
from itertools import count, groupby
from math import floor, fsum, inf, log2

from tests.oracle import naive

_events, _keep_best, _touch_each, _History = naive.events, naive.keep_best, naive.touch_each, naive.History


def events(rows, *, phase="all", **how):
    passes = sorted({row.step for row in rows if phase in ("all", row.phase)})
    out = _events(rows, phase=phase, **how)
    for event in out:
        event.forward_pass = passes.index(event.step)
    return out


class History(_History):
    def __init__(self, epoch, preload):
        super().__init__(epoch, preload)
        self.passes = [getattr(event, "forward_pass", None) for event in epoch]  # not of events made of others


def keep_best(key, resident, event, limit, size, admission, gate):
    key.args[0].size = size
    kept = _keep_best(key, resident, event, limit, size, admission, gate)
    members = getattr(key.func, "members", None)  # of a static set: nothing else enters
    return kept if members is None else [entry for entry in kept if entry in members]


def touch_each(policy, resident, event, *rest):
    policy.now = event.forward_pass
    return _touch_each(policy, resident, event, *rest)


naive.events, naive.keep_best, naive.touch_each, naive.History = events, keep_best, touch_each, History


# --- keys: the smaller, the better kept


def mru(history, entry):
    """Older is better; what the cache starts with is oldest, the most used of it best."""
    last = history.last[entry]
    return (1, last) if history.past(entry) else (0, -last)


def lfu_aged(half_life):
    def key(history, entry):
        uses = [history.passes[index] for index in history.past(entry)]
        if not uses:
            return inf, -history.last[entry]
        now = uses[-1]
        score = log2(fsum(2 ** ((use - now) / half_life) for use in uses)) + now / half_life
        return -round(score * 2**20), 0

    return key


def lru_k(k):
    def key(history, entry):
        past = history.past(entry)
        return -past[-k] if len(past) >= k else inf, -history.last[entry]

    return key


def belady_size(history, entry):
    return history.size(entry) * (history.next_use(entry) - history.now)


def static(members):
    """members: entries, the best first."""

    def key(history, entry):
        return members.index(entry) if entry in members else inf

    key.members = set(members)
    return key


def reuses(rows, **grouping):
    """Entries that were used again before the cache was emptied, most such uses first, ties by the lower entry."""
    by_request = grouping.get("reset") == "request"
    again = Counter()
    for _, epoch in groupby(events(rows, **grouping), key=lambda event: by_request and event.request):
        uses = Counter(entry for event in epoch for entry in event.entries)
        again.update({entry: times - 1 for entry, times in uses.items()})
    return sorted((entry for entry in again if again[entry]), key=lambda entry: (-again[entry], entry))


# --- slot policies


class Lfru(naive.SlotPolicy):
    """queue: entry -> when it was last used, in touches of this cache."""

    whole = False  # whether uses count that were before it entered

    def __init__(self, limit, size):
        super().__init__(limit, size)
        self.clock, self.uses = 0, Counter()

    def hit(self, entry):
        self.uses[entry] += 1
        self.touch(entry)

    def admit(self, entry):
        self.uses[entry] = self.uses[entry] + 1 if self.whole else 1

    def insert(self, entry):
        self.uses[entry] = self.uses[entry] or 1
        self.touch(entry)

    def touch(self, entry):
        self.clock += 1
        self.queue[entry] = self.clock

    def victim(self, protected):
        def worth(entry):
            return Fraction(self.uses[entry], self.clock - self.queue[entry] + 1), self.queue[entry]

        worst = min((entry for entry in self.queue if entry not in protected), key=worth, default=None)
        self.queue.pop(worst, None)
        return worst


class LfruOfAll(Lfru):
    whole = True


class ClassLru(naive.SlotPolicy):
    """queue: entry -> its class and the step of its last use, in the order of uses; counts: entry -> count and step."""

    half_life, classes, now = 128, 8, 0

    def __init__(self, limit, size):
        super().__init__(limit, size)
        self.counts = {}

    def hit(self, entry):
        self.admit(entry)
        self.queue.pop(entry)
        self.insert(entry)

    def admit(self, entry):
        count, used = self.counts.get(entry, (0.0, 0))
        self.counts[entry] = 1 + count * 2 ** (-(self.now - used) / self.half_life), self.now

    def insert(self, entry):
        count, used = self.counts.get(entry, (1.0, 0))
        self.queue[entry] = min(self.classes - 1, floor(log2(count))), used

    def victim(self, protected):
        heads = {}
        for entry, (of, used) in self.queue.items():
            if entry not in protected:
                heads.setdefault(of, (Fraction(self.now - used, 2**of), -of, entry))
        worst = max(heads.values(), default=(None, None, None))[2]
        self.queue.pop(worst, None)
        return worst


class Clock(naive.SlotPolicy):
    """queue: resident -> used since it was last looked at, the oldest first."""

    def insert(self, entry):
        self.queue[entry] = False

    def hit(self, entry):
        self.queue[entry] = True

    def victim(self, protected):
        while any(entry not in protected for entry in self.queue):
            oldest = next(entry for entry in self.queue if entry not in protected)
            if not self.queue.pop(oldest):
                return oldest
            self.queue[oldest] = False
        return None


class Ema(naive.SlotPolicy):
    """queue: the residents, the last to enter last; counts: entry -> decayed count and when. Only under bypass."""

    half_life, every, hysteresis, now = 256, 60, 2, 0

    def __init__(self, limit, size):
        super().__init__(limit, size)
        self.counts = {}

    def hit(self, entry):
        self.admit(entry)

    def admit(self, entry):
        count, used = self.counts.get(entry, (0.0, 0))
        self.counts[entry] = 1 + count * 2 ** ((used - self.now) / self.half_life), self.now

    def insert(self, entry):
        self.queue[entry] = self.newcomer = entry

    def log_score(self, entry):
        count, used = self.counts.get(entry, (0.0, 0))
        return log2(count) + used / self.half_life if count else -inf

    def victim(self, protected):
        others = sorted(entry for entry in self.queue if entry != self.newcomer)
        lowest = min(others, key=self.log_score, default=None)
        if self.newcomer is not None:
            swaps = self.now % self.every == 0
            if (
                lowest is None
                or not swaps
                or not (self.log_score(self.newcomer) > self.log_score(lowest) + log2(self.hysteresis))
            ):
                lowest, self.newcomer = self.newcomer, None
        self.queue.pop(lowest, None)
        return lowest


class LeastStale(naive.SlotPolicy):
    """queue: entry -> the forward pass and the moment of its last use."""

    now = -1  # before the first

    def __init__(self, limit, size):
        super().__init__(limit, size)
        self.clock, self.running = count(), 0

    def hit(self, entry):
        self.admit(entry)
        self.insert(entry)

    def admit(self, entry):
        self.running = entry[0]

    def insert(self, entry):
        self.queue[entry] = self.now, next(self.clock)

    def victim(self, protected):
        def order(entry):
            (layer, _), (used, moment) = entry, self.queue[entry]
            to_come = layer > self.running
            return used == self.now, to_come, -layer if to_come else layer, moment

        worst = min((entry for entry in self.queue if entry not in protected), key=order, default=None)
        self.queue.pop(worst, None)
        return worst


STACK = {
    "mru": mru,
    "lru-k": lru_k(2),
    "lru-k:k=1": lru_k(1),
    "lru-k:k=3": lru_k(3),
    "lfu-aged": lfu_aged(64),
    "lfu-aged:half_life=2": lfu_aged(2),
    "lfu-aged:half_life=0.7": lfu_aged(0.7),
    "belady-size": belady_size,
}
SLOT = {
    "lfru": Lfru, "lfru:history=1": LfruOfAll, "least-stale": LeastStale, "clock": Clock, "class-lru": ClassLru,
    "class-lru:half_life=3:classes=3": type("ShortClassLru", (ClassLru,), {"half_life": 3, "classes": 3}),
}  # fmt: skip
naive.STACK.update(STACK)
naive.SLOT.update(SLOT)
