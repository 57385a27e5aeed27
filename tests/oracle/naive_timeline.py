"""The timeline of one step after the other, told slowly: every read is an object, every rule a sentence of the docs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Link:
    """Lanes take turns; transfers follow each other."""

    latency: float
    overhead: float
    per_byte: float
    lane_per_byte: float
    lanes: int
    ends: list[float] = field(default_factory=list)  # of all reads so far, in the order of issue
    busy_until: float = 0.0

    def read(self, size: float, asked: float) -> float:
        lane_free = self.ends[-self.lanes] if len(self.ends) >= self.lanes else 0.0
        ready = max(asked, lane_free) + self.latency
        self.busy_until = max(ready, self.busy_until) + self.overhead + size * self.per_byte
        self.ends.append(max(self.busy_until, ready + size * self.lane_per_byte))
        return self.ends[-1]


CAUSES = ("dense", "experts", "storage", "pcie", "fixed")


class Device:
    """What computes or waits, and why time passed."""

    def __init__(self):
        self.now, self.causes = 0.0, {}

    def wait(self, gone, there):
        if there > self.now:
            for_storage = max(gone - self.now, 0.0)
            self.causes["storage"] += for_storage
            self.causes["pcie"] += there - self.now - for_storage
            self.now = there

    def join(self, cpu_done, handover):
        """Wait for the CPU."""
        late = max(cpu_done - self.now, 0.0)
        self.work("experts", late - min(late, handover), min(late, handover))

    def work(self, cause, seconds, fixed):
        self.causes[cause] += seconds
        self.causes["fixed"] += fixed
        self.now += seconds + fixed


def fetch(storage, host, far_sizes, near_sizes, asked):
    """(gone from storage, there) of an expert whose tensors are read one after the other."""
    gone, there = [asked], [asked]
    for far, near in zip(far_sizes, near_sizes, strict=True):
        end = asked
        if storage is not None:
            end = storage.read(far, end)
            gone.append(end)
        if host is not None:
            end = host.read(near, end)
        there.append(end)
    return max(gone), max(there)


def timeline(
    tokens, kv_tokens, needed, far, near, early, used, depth, guessed, overlap, at_once, cpu, moe_of, layer_costs,
    head_costs, expert_costs, far_sizes, near_sizes, link, lanes, order="host first",
):  # fmt: skip
    """(seconds, {cause: seconds}, experts read ahead that came late to each MoE layer) of every step. order: in which
    the misses of a layer are asked for; the package asks for those that the host holds first."""
    storage = Link(*link[0], int(lanes[0])) if lanes[0] else None
    host = Link(*link[1], int(lanes[1])) if lanes[1] else None
    columns = needed.shape[1]
    pairs = [(step, j) for step in range(len(tokens)) for j in range(columns)]
    arrived = {}  # of what was read ahead
    device, answers = Device(), []

    def read_ahead(place):
        for at, to in pairs[: place + depth + 1] if overlap == 2 else []:
            if (at, to) not in arrived:
                count = int(early[at, to])
                arrived[at, to] = [
                    fetch(storage, host, far_sizes[to], near_sizes[to], device.now) for _ in range(count)
                ]

    for step in range(len(tokens)):
        device.causes, start, late = dict.fromkeys(CAUSES, 0.0), device.now, [0] * columns
        wait, work = device.wait, device.work
        for layer, j in enumerate(moe_of):
            if j >= 0 and not guessed:
                read_ahead(step * columns + j)
            base, per_cached, per_token, fixed = layer_costs[layer]
            work("dense", base + per_cached * kv_tokens[step] + per_token * tokens[step], fixed)
            if j < 0:
                continue
            one, per_token, contention, on_cpu, fixed, handover, asking = expert_costs[j]
            wanted, misses = int(needed[step, j]), int(far[step, j]) + int(near[step, j])
            if wanted:
                one += per_token * tokens[step] / wanted
            asked, given = device.now, int(cpu[step, j])
            cpu_done = asked + handover + given * on_cpu if given else asked
            wanted -= given  # what the device computes
            places = [None] * int(near[step, j]) + [storage] * int(far[step, j])
            if order == "storage first":
                places.reverse()
            elif order == "in turns":
                places = [*places[::2], *places[1::2]]
            reads = [fetch(place, host, far_sizes[j], near_sizes[j], asked + asking) for place in places]
            if guessed:
                read_ahead(step * columns + j)
            if overlap == 0:
                for read in reads:
                    wait(*read)
                work("experts", wanted * one, wanted * fixed)
                device.join(cpu_done, handover)
                continue
            came = int(early[step, j]) if overlap == 2 else 0
            useful = min(came, int(used[step, j]), wanted - misses)
            right = arrived[step, j][came - useful :] if came else []
            resident = wanted - misses - useful
            work("experts", resident * one, resident * fixed)
            work("experts", (came - useful) * contention, 0.0)
            for read in right:
                late[j] += read[1] > device.now
                wait(*read)
                work("experts", one + contention, fixed)
            for read in reads:
                wait(*read)
                work("experts", one + contention, fixed)
            computing = wanted * (one + fixed) + (came + misses) * contention
            first_read_then_computed = max([asked, *(there for _, there in [*right, *reads])])
            lost = (1 - at_once) * max(first_read_then_computed + computing - device.now, 0.0)
            if came + misses:
                wait(device.now + lost if storage and came + far[step, j] else device.now, device.now + lost)
            device.join(cpu_done, handover)
        base, per_token, fixed = head_costs
        work("dense", base + per_token * tokens[step], fixed)
        answers.append((device.now - start, device.causes, late))
    return answers
