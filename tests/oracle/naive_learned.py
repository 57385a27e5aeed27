"""W-TinyLFU and LeCaR, which weigh what was evicted or rejected; `naive_slots` adds them to `naive.SLOT`."""

import math

from tests.oracle.naive_twin import MASK, Draws, Segments, Twin, free


def xxh64(number, seed):
    """XXH64 of one number of eight bytes, from the specification of the hash."""
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5

    def turn(x, by):
        return (x << by | x >> 64 - by) & MASK

    lane = turn(number * p2 & MASK, 31) * p1 & MASK
    x = turn((seed + p5 + 8 & MASK) ^ lane, 27) * p1 + p4 & MASK
    x = (x ^ x >> 33) * p2 & MASK
    x = (x ^ x >> 29) * p3 & MASK
    return x ^ x >> 32


class Sketch:
    """A counting Bloom filter for `entries` numbers and errors of 0.001, of which the least counter is the estimate."""

    def __init__(self, entries):
        per_entry = -math.log(0.001) / 0.480453013918201  # (ln 2)²
        self.counters = [0] * max(math.ceil(per_entry * entries), 20)

    def places(self, number):
        a, b = (xxh64(number, seed) % 2**32 for seed in (0x12345678, 0x12344321))
        return [(a + i * b) % 2**32 % len(self.counters) for i in range(10)]

    def add(self, number):
        for place in self.places(number):
            self.counters[place] += 1

    def estimate(self, number):
        return min(self.counters[place] for place in self.places(number))

    def halve(self):
        self.counters = [counter // 2 for counter in self.counters]


class WTinyLfu(Twin):
    """Einziger, Friedman, Manes, ACM ToS 2017, section 4.2, with the sketch and the sample of libCacheSim."""

    def start(self):
        hundredth = self.limit // 100
        largest = max(size for size in self.sizes.values() if size <= self.limit)
        self.share = self.limit - max(hundredth, largest)  # of the main cache
        self.window, self.main = [], Segments(self, [self.share // 5, self.share * 4 // 5])
        held = min(self.share * len(self.sizes) // sum(self.sizes.values()), len(self.sizes))
        self.sketch = Sketch(held if hundredth >= largest else len(self.sizes))
        self.sample, self.seen = 32 * max(held, 1), 0

    def hit(self, entry, protected):
        if entry in self.window:
            self.window.remove(entry)
            self.window.append(entry)
            return set()
        gone = self.main.hit(entry, protected)
        self.sketch.add(self.number[entry])
        self.seen += 1
        if self.seen == self.sample:
            self.seen = 0
            self.sketch.halve()
        return gone

    def insert(self, entry):
        self.window.append(entry)
        self.sketch.add(self.number[entry])

    def fits(self, entry):
        return self.weigh(*self.main.queues, [entry]) <= self.share

    def move(self, entry):
        self.window.remove(entry)
        self.main.insert(entry)

    def victim(self, protected):
        while self.window and self.fits(self.window[0]):
            self.sketch.add(self.number[self.window[0]])
            self.move(self.window[0])
        newer, older = free(self.window, protected), self.main.candidate(protected)
        if newer is None and older is None:
            return None
        wins = newer is None
        if newer is not None and older is not None:
            wins = self.sketch.estimate(self.number[newer]) > self.sketch.estimate(self.number[older])
        if wins:
            self.main.of(older).remove(older)
        if newer is not None:
            self.sketch.add(self.number[newer])
            if not wins:
                self.window.remove(newer)
            elif self.fits(newer):
                self.move(newer)
        return older if wins else newer


class WTinyLfuOfThePaper(WTinyLfu):
    """Every use is one of the sample: the paper, with the sketch and the size of the sample as above."""

    def use(self, entry):
        self.sketch.add(self.number[entry])
        self.seen += 1
        if self.seen == self.sample:
            self.seen //= 2
            self.sketch.halve()

    def hit(self, entry, protected):
        gone = set()
        if entry in self.window:
            self.window.remove(entry)
            self.window.append(entry)
        else:
            gone = self.main.hit(entry, protected)
        self.use(entry)
        return gone

    def insert(self, entry):
        self.window.append(entry)
        self.use(entry)

    def victim(self, protected):
        while self.window and self.fits(self.window[0]):
            self.move(self.window[0])
        newer, older = free(self.window, protected), self.main.candidate(protected)
        if newer is None or older is None:
            leaving = older if newer is None else newer
        else:
            wins = self.sketch.estimate(self.number[newer]) > self.sketch.estimate(self.number[older])
            leaving = older if wins else newer
        if leaving is None:
            return None
        if leaving != newer:
            self.main.of(older).remove(older)
            if newer is not None and self.fits(newer):
                self.move(newer)
        else:
            self.window.remove(newer)
        return leaving


class LeCar(Twin):
    """Vietri et al., HotStorage 2018, algorithms 1 and 2; what they leave open is as in the authors' program."""

    seed = 0

    def start(self):
        self.recency, self.uses, self.draws = [], {}, Draws(self.seed)
        self.history = {"lru": {}, "lfu": {}}  # entry -> (uses, when it was evicted)
        self.lru, self.now, self.coming = 0.5, 0, 1

    def hit(self, entry, protected):
        self.now += 1
        self.uses[entry] += 1
        self.recency.remove(entry)
        self.recency.append(entry)

    def admit(self, entry):
        self.now += 1
        self.coming = 1
        for expert, history in self.history.items():
            if entry in history:
                uses, when = history.pop(entry)
                self.coming = uses + 1
                self.learn(expert, 0.005 ** ((self.now - when) / self.capacity()))

    def learn(self, expert, regret):
        """The one that did not evict gains."""
        gain = math.exp(0.45 * regret)
        lru, lfu = (self.lru, (1 - self.lru) * gain) if expert == "lru" else (self.lru * gain, 1 - self.lru)
        self.lru = min(max(lru / (lru + lfu), 0.01), 0.99)

    def insert(self, entry):
        self.uses[entry] = self.coming
        self.recency.append(entry)
        self.coming = 1

    def victim(self, protected):
        oldest = free(self.recency, protected)
        if oldest is None:
            return None
        least = min((entry for entry in self.recency if entry not in protected), key=self.uses.get)
        expert = "lru" if self.draws.next() < self.lru * 2**32 else "lfu"
        leaving = oldest if expert == "lru" else least
        self.recency.remove(leaving)
        if oldest != least:  # else both are to blame, and neither learns from it
            history = self.history[expert]
            history[leaving] = self.uses[leaving], self.now
            while self.over(history, self.limit):
                history.pop(next(iter(history)))
        return leaving
