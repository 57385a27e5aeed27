"""Slot policies as their papers tell them, and as libCacheSim plays them; importing this adds them to `naive.SLOT`."""

from functools import partial

from tests.oracle import naive
from tests.oracle.naive_learned import LeCar, WTinyLfu, WTinyLfuOfThePaper
from tests.oracle.naive_twin import Draws, Lazy, Segments, Twin, free


class Random(Twin):
    seed = 0

    def start(self):
        self.residents, self.draws = [], Draws(self.seed)

    def victim(self, protected):
        """Drawn again until it is free; the last takes the place of the one that leaves."""
        if free(self.residents, protected) is None:
            return None
        while True:
            place = self.draws.next() * len(self.residents) >> 32
            if (chosen := self.residents[place]) not in protected:
                self.residents[place] = self.residents[-1]
                self.residents.pop()
                return chosen

    def insert(self, entry):
        self.residents.append(entry)


class Sieve(Twin):
    """Zhang et al., NSDI 2024, algorithm 1. Who is protected is passed over."""

    def start(self):
        self.queue, self.visited, self.hand = [], set(), None

    def hit(self, entry, protected):
        self.visited.add(entry)

    def insert(self, entry):
        self.queue.append(entry)

    def victim(self, protected):
        if free(self.queue, protected) is None:
            return None
        at = 0 if self.hand is None else self.queue.index(self.hand)
        while (entry := self.queue[at]) in protected or entry in self.visited:
            if entry not in protected:
                self.visited.remove(entry)
            at = (at + 1) % len(self.queue)
        self.queue.pop(at)
        self.hand = self.queue[at] if at < len(self.queue) else None
        return entry


class Slru(Twin):
    def start(self):
        self.segments = Segments(self, [self.limit // 4] * 4)

    def hit(self, entry, protected):
        return self.segments.hit(entry, protected)

    def insert(self, entry):
        self.segments.insert(entry)

    def victim(self, protected):
        leaving = self.segments.candidate(protected)
        if leaving is not None:
            self.segments.of(leaving).remove(leaving)
        return leaving


class Karedla(Twin):
    """Karedla, Love, Wherry, IEEE Computer 27(3), 1994: two lists, the last of each the most recent."""

    protected = 800  # thousandths of the limit

    def start(self):
        self.probation, self.shelter = [], []

    def hit(self, entry, protected):
        (self.probation if entry in self.probation else self.shelter).remove(entry)
        self.shelter.append(entry)
        while self.over(self.shelter, self.limit * self.protected // 1000):
            self.probation.append(self.shelter.pop(0))

    def insert(self, entry):
        self.probation.append(entry)

    def victim(self, protected):
        for queue in (self.probation, self.shelter):
            if (leaving := free(queue, protected)) is not None:
                queue.remove(leaving)
                return leaving
        return None


class TwoQ(Twin):
    """Johnson, Shasha, VLDB 1994, section 2.2 (full version)."""

    def start(self):
        self.a_in, self.a_out, self.a_main, self.returns = [], [], [], False

    def hit(self, entry, protected):
        if entry in self.a_main:
            self.a_main.remove(entry)
            self.a_main.append(entry)

    def admit(self, entry):
        self.returns = entry in self.a_out
        if self.returns:
            self.a_out.remove(entry)

    def insert(self, entry):
        (self.a_main if self.returns else self.a_in).append(entry)

    def victim(self, protected):
        in_first = self.over(self.a_in, self.limit // 4) or not self.a_main
        for queue in (self.a_in, self.a_main) if in_first else (self.a_main, self.a_in):
            if (leaving := free(queue, protected)) is not None:
                queue.remove(leaving)
                if queue is self.a_in:
                    self.a_out.append(leaving)
                    while self.over(self.a_out, self.limit // 2):
                        self.a_out.pop(0)
                return leaving
        return None


class Arc(Twin):
    """Megiddo, Modha, FAST 2003, figure 4, with sizes for counts."""

    def start(self):
        self.t1, self.t2, self.b1, self.b2 = [], [], [], []
        self.p, self.ghost, self.coming = 0.0, None, 0

    def hit(self, entry, protected):
        (self.t1 if entry in self.t1 else self.t2).remove(entry)
        self.t2.append(entry)

    def admit(self, entry):
        size = self.coming = self.sizes[entry]
        self.ghost = next((ghost for ghost in (self.b1, self.b2) if entry in ghost), None)
        if self.ghost is self.b1:
            self.p = min(self.p + max(self.weigh(self.b2) / self.weigh(self.b1), 1) * size, self.limit)
        if self.ghost is self.b2:
            self.p = max(self.p - max(self.weigh(self.b1) / self.weigh(self.b2), 1) * size, 0)
        if self.ghost is not None:
            self.ghost.remove(entry)

    def insert(self, entry):
        (self.t1 if self.ghost is None else self.t2).append(entry)
        self.coming = 0

    def victim(self, protected):
        """The cases of a full miss, then REPLACE."""
        to_ghost, recent = True, self.weigh(self.t1) + self.coming
        first = bool(self.t1) and (
            self.weigh(self.t1) > self.p or (self.weigh(self.t1) == self.p and self.ghost is self.b2)
        )
        if self.ghost is None and recent + self.weigh(self.b1) > self.limit:
            if not self.b1 and free(self.t1, protected) is not None:
                first, to_ghost = True, False
            while self.b1 and recent + self.weigh(self.b1) > self.limit:
                self.b1.pop(0)
        elif self.ghost is None:
            while self.b2 and recent + self.weigh(self.b1, self.t2, self.b2) > 2 * self.limit:
                self.b2.pop(0)
        sides = [(self.t1, self.b1), (self.t2, self.b2)]
        for queue, ghosts in sides if first or not self.t2 else sides[::-1]:
            if (leaving := free(queue, protected)) is not None:
                queue.remove(leaving)
                if to_ghost:
                    ghosts.append(leaving)
                return leaving
        return None


class S3Fifo(Twin):
    """Yang et al., SOSP 2023, algorithm 1, as libCacheSim has it: main takes what comes while the cache first fills."""

    def start(self):
        self.small, self.main, self.ghost, self.uses = [], [], [], {}
        self.returns = self.full = False

    def hit(self, entry, protected):
        self.uses[entry] += 1

    def admit(self, entry):
        self.returns = entry in self.ghost
        if self.returns:
            self.ghost.remove(entry)

    def insert(self, entry):
        self.uses[entry] = 0
        small_is_full = self.small and self.weigh(self.small) >= self.limit // 10
        (self.main if self.returns or (small_is_full and not self.full) else self.small).append(entry)

    def victim(self, protected):
        if free(self.small + self.main, protected) is None:
            return None
        self.full = True
        main_first = self.weigh(self.main) > self.limit - self.limit // 10
        if not (main_first and free(self.main, protected) is not None):
            while (entry := free(self.small, protected)) is not None:
                self.small.remove(entry)
                if self.uses[entry] < 2:
                    self.ghost.append(entry)
                    while self.over(self.ghost, self.limit * 9 // 10):
                        self.ghost.pop(0)
                    return entry
                self.main.append(entry)
                self.uses[entry] = 0
        while self.uses[entry := free(self.main, protected)]:
            self.main.remove(entry)
            self.main.append(entry)
            self.uses[entry] = min(self.uses[entry], 3) - 1
        self.main.remove(entry)
        return entry


TWINS = {
    "2q": TwoQ, "arc": Arc, "lecar": LeCar, "random": Random, "s3fifo": S3Fifo, "sieve": Sieve, "slru": Slru,
    "w-tinylfu": WTinyLfu, "w-tinylfu:count_window=true": WTinyLfuOfThePaper, "slru:segments=2": Karedla,
    "slru:segments=2:protected=0.5": type("KaredlaHalf", (Karedla,), {"protected": 500}),
    "random:seed=7": type("Random7", (Random,), {"seed": 7}), "lecar:seed=7": type("LeCar7", (LeCar,), {"seed": 7}),
}  # fmt: skip
naive.SLOT.update({name: partial(Lazy, twin) for name, twin in TWINS.items()})
