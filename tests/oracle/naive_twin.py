"""What the twins of slot policies have in common: the entries of a cache, shares of it, draws, segments.

Queues are lists of entries, the next to leave first. A queue's share counts what its entries take of the limit, and a
queue of one entry is never over its share. `scene` must say which entries there are.
"""

from contextlib import contextmanager

from tests.oracle import naive

MASK = 2**64 - 1


@contextmanager
def scene(experts, scope):
    """The entries: experts per layer, and whether layers share a cache."""
    Lazy.experts, Lazy.layered = experts, scope == "layer"
    yield


class Lazy(naive.SlotPolicy):
    """Waits for the first entry, which tells the layer; within a layer all are of one size, and limits count them."""

    experts, layered, protected = (), True, ()

    def __init__(self, kind, limit, size):
        super().__init__(limit, size)
        self.kind, self.policy = kind, None

    def of(self, layer):
        if self.policy is None:
            layers = [layer] if self.layered else range(len(self.experts))
            sizes = {(one, e): self.size((one, e)) for one in layers for e in range(self.experts[one])}
            unit = self.size((layer, 0)) if self.layered else 1
            self.policy = self.kind(self.limit // unit, {entry: size // unit for entry, size in sizes.items()})
        return self.policy

    def hit(self, entry):
        return self.policy.hit(entry, self.protected)

    def admit(self, entry):
        self.of(entry[0]).admit(entry)

    def insert(self, entry):
        self.of(entry[0]).insert(entry)

    def victim(self, protected):
        return self.policy.victim(protected)


class Twin:
    """sizes: {entry: what it takes of the limit}, in the order of their numbers."""

    def __init__(self, limit, sizes):
        self.limit, self.sizes, self.number = limit, sizes, {entry: i for i, entry in enumerate(sizes)}
        self.start()

    def weigh(self, *queues):
        return sum(self.sizes[entry] for queue in queues for entry in queue)

    def over(self, queue, share):
        return self.weigh(queue) > share and len(queue) > 1

    def capacity(self):
        """How many entries of the mean size the limit holds, at least one."""
        return max(1, self.limit * len(self.sizes) // sum(self.sizes.values()))

    def hit(self, entry, protected): ...

    def admit(self, entry): ...


def free(queue, protected):
    return next((entry for entry in queue if entry not in protected), None)


def shuffled(seed):
    """The first output of splitmix64: where a random sequence starts."""
    x = (seed + 1) * 0x9E3779B97F4A7C15 & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31 or 1


class Draws:
    """Marsaglia's xorshift64 (13, 7, 17): of every number the upper half."""

    def __init__(self, seed):
        self.x = shuffled(seed)

    def next(self):
        self.x ^= self.x << 13 & MASK
        self.x ^= self.x >> 7
        self.x ^= self.x << 17 & MASK
        return self.x >> 32


class Segments:
    """The LRU queues of a segmented LRU (Karedla, Love, Wherry 1994), the lowest first, each with its share."""

    def __init__(self, twin, shares):
        self.twin, self.shares, self.queues = twin, shares, [[] for _ in shares]

    def of(self, entry):
        return next((queue for queue in self.queues if entry in queue), None)

    def insert(self, entry):
        """Into the lowest with room, else into the lowest."""
        fits = [
            queue
            for queue, share in zip(self.queues, self.shares, strict=True)
            if not queue or self.twin.weigh(queue, [entry]) <= share
        ]
        (fits or self.queues)[0].append(entry)

    def hit(self, entry, protected):
        """One up; what is too much goes down; what is pushed out of the lowest leaves."""
        at = self.queues.index(self.of(entry))
        self.queues[at].remove(entry)
        up = min(at + 1, len(self.queues) - 1)
        self.queues[up].append(entry)
        pushed, gone = False, set()
        for level in range(up, 0, -1):
            while self.twin.over(self.queues[level], self.shares[level]):
                self.queues[level - 1].append(self.queues[level].pop(0))
                pushed = level == 1
        while pushed and self.twin.over(self.queues[0], self.shares[0]):
            if (leaving := free(self.queues[0], protected)) is None:
                break
            self.queues[0].remove(leaving)
            gone.add(leaving)
        return gone

    def candidate(self, protected):
        return free([entry for queue in self.queues for entry in queue], protected)
