"""The slow and obvious replay with prefetching, written from the semantics in `remoe_sim.studies.prefetch`."""

from collections import Counter
from itertools import pairwise

from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, WARMUP
from tests.oracle.naive_tiers import Cache

NAMES = (
    "lookups", "hits", "by_prefetch", "named", "right", "resident", "prefetched", "useful", "wrong", "cap_refused",
    "room_refused", "wasted",
)  # fmt: skip


class Loading(Cache):
    """A cache into which experts are loaded that nobody has wanted yet."""

    def __init__(self, policy, *rest):
        super().__init__(policy, *rest)
        self.by_recency = policy == "lru"
        if self.key:
            known, by_use = self.key, policy != "belady"
            self.key = lambda entry: (1,) if by_use and entry not in self.history.last else (0, known(entry))

    def has_room(self, entry, firm):
        return self.load(self.held & firm) + self.size(entry) <= self.limit

    def bring(self, entry, firm):
        """Load an entry; what leaves for it is no member of `firm`."""
        if self.slots:
            self.slots.admit(entry)
        before = set(self.held)
        while self.load(self.held) + self.size(entry) > self.limit:
            free = self.held - firm
            victim = max(free, key=lambda one: (self.key(one), one)) if self.key else self.slots.victim(firm)
            self.held.remove(victim)
        if self.by_recency:
            self.history.last[entry] = next(self.history.clock)
        if self.slots:
            self.slots.insert(entry)
        self.held.add(entry)
        return before - self.held


def prefetch(rows, spec, predictor, depth, top_k, *, admission="mandatory", cap=None, sizes=None, most=None, train=None,
             train_share=None, named=None, ahead=None, **grouping):  # fmt: skip
    """Counts by phase and layer, evictions, and reads: misses of each event, and for each that something is loaded for
    how many were loaded and how many of them it uses. spec: naive_tiers.Spec; sizes: bytes of an expert, per layer;
    train: rows to learn from; ahead: layer -> for each row what its router says `depth` layers earlier; named: event
    number -> entries, instead of a predictor; `grouping` is for naive.events().
    """
    events = naive.events(rows, **grouping)
    phase = grouping.get("phase", "all")
    kept = [number for number, row in enumerate(rows) if phase in ("all", row.phase)]
    rows = [rows[number] for number in kept]
    steps = {step: rank for rank, step in enumerate(sorted({row.step for row in rows}))}
    layers = len(top_k)
    learnt = int((train_share or 0) * len(steps))
    for event in events:
        if steps[event.step] < learnt:
            event.kind = dict.fromkeys(event.kind, WARMUP)
    place = [steps[event.step] * layers + event.layer for event in events]
    by_request = grouping.get("reset") == "request"

    def same_epoch(one, other):
        return not by_request or events[one].request == events[other].request

    taught = train if train is not None else [row for row in rows if steps[row.step] < learnt]
    learning = train is not None or learnt > 0
    table = transitions(taught, depth, layers) if predictor == "transition" else None

    def guess(target):
        event = events[target]
        width = top_k[event.layer] if most is None else most
        past = [one for one in range(target) if events[one].layer == event.layer and same_epoch(one, target)]
        if predictor == "previous":
            return events[past[-1]].entries[::-1][:width] if past else []
        if predictor == "frequent":
            wanted = ((event.layer, expert) for row in taught for expert in row.decisions[event.layer] or [])
            counts = Counter(entry for entry in wanted if entry[1] is not None)
            if not learning:
                counts = Counter(entry for one in past for entry in events[one].entries)
            return sorted(counts, key=lambda entry: (-counts[entry], entry))[:width]
        if predictor == "transition":
            sources = [one for one in range(target) if place[one] == place[target] - depth]
            return likely(table, [entry for one in sources for entry in events[one].entries], event.layer)[:width]
        if predictor == "lookahead":
            said = [] if ahead.get(event.layer) is None else [ahead[event.layer][number] for number in kept]
            mine = [one or [] for row, one in zip(rows, said, strict=False) if row.step == event.step]
            names = {expert for one in mine for expert in one if expert is not None}
            times = {name: sum(name in one for one in mine) for name in names}
            rank = {name: min(one.index(name) for one in mine if name in one) for name in names}
            surest = sorted(names, key=lambda name: (-times[name], rank[name], name))
            return [(event.layer, name) for name in surest][:most]
        return event.entries if predictor == "oracle" else named.get(target, [])

    issues = {}  # event -> targets
    for target in range(len(events)):
        before = [one for one in range(target) if place[one] <= place[target] - depth and same_epoch(one, target)]
        if before and steps[events[target].step] >= learnt and predictor != "none":
            issues.setdefault(before[-1], []).append(target)

    counts = {kind: [dict.fromkeys(NAMES, 0) for _ in top_k] for kind in (PREFILL, DECODE, WARMUP)}
    evictions = [0, 0]
    misses, uses = [], {}
    waiting, loaded_for, guesses, unused, spent = set(), {}, {}, {}, 0

    def kind_of(target):
        return min(events[target].kind.values(), key=naive.PRECEDENCE.index)

    def leave(gone):
        for entry in gone & set(unused):
            counts[unused.pop(entry)][entry[0]]["wasted"] += 1

    for number, event in enumerate(events):
        if number == 0 or not same_epoch(number - 1, number):
            leave(set(unused))
            epoch = [one for index, one in enumerate(events) if same_epoch(index, number)]
            caches = [
                Loading(spec.policy, limit, spec.size, admission, [one for one in epoch if spec.at(one) == index])
                for index, limit in enumerate(spec.limits)
            ]
        if number == 0 or event.step != events[number - 1].step or not same_epoch(number - 1, number):
            spent = 0
        cache, group = caches[spec.at(event)], set(event.entries)
        for entry in event.entries:
            mine = counts[event.kind[entry]][event.layer]
            mine["lookups"] += 1
            mine["hits"] += entry in cache.held
            if entry in unused:
                mine["by_prefetch"] += 1
                counts[unused.pop(entry)][event.layer]["useful"] += 1
        misses.append(len(group - cache.held))
        if loaded_for.get(number):
            uses[number] = len(loaded_for[number]), len(loaded_for[number] & group & cache.held)
        for entry in guesses.get(number, []):
            mine = counts[kind_of(number)][event.layer]
            mine["right"] += entry in group
            mine["wrong"] += entry not in group and entry in loaded_for[number]
            waiting.discard(entry)
        held = set(cache.held)
        cache.learn(event)
        cache.take(event)
        evictions[0] += len(held - cache.held)
        leave(held - cache.held)
        for target in issues.get(number, []):
            guesses[target], loaded_for[target] = guess(target), set()
            there, mine = caches[spec.at(events[target])], counts[kind_of(target)][events[target].layer]
            mine["named"] += len(guesses[target])
            missing = [entry for entry in guesses[target] if entry not in there.held]
            mine["resident"] += len(guesses[target]) - len(missing)
            waiting |= set(guesses[target]) & there.held
            for entry in missing:
                size = 1 if sizes is None else sizes[entry[0]]
                if cap is not None and spent + size > cap:
                    mine["cap_refused"] += 1
                elif not there.has_room(entry, waiting | group):
                    mine["room_refused"] += 1
                else:
                    gone = there.bring(entry, waiting | group)
                    evictions[0] += len(gone)
                    evictions[1] += len(gone)
                    leave(gone)
                    unused[entry] = kind_of(target)
                    loaded_for[target].add(entry)
                    waiting.add(entry)
                    mine["prefetched"] += 1
                    spent += size
    leave(set(unused))
    answer = {phase: counts[phase] for phase in (PREFILL, DECODE)}
    return answer | {"evictions": tuple(evictions), "reads": (misses, uses)}


def transitions(rows, depth, layers):
    """(source entry, entry) -> how often the one was followed by the other, and source entry -> by any, per layer."""
    together, alone = Counter(), Counter()

    def learn(source, target, layer):
        followers = [(layer, expert) for expert in target.decisions[layer] or [] if expert is not None]
        before = (layer - depth) % layers
        for expert in source.decisions[before] or []:
            if expert is not None and followers:
                alone[(before, expert), layer] += 1
                together.update(((before, expert), follower) for follower in followers)

    for layer in range(layers):
        if layer >= depth:
            for row in rows:
                learn(row, row, layer)
        else:
            for source, target in pairwise(sorted(rows, key=lambda row: (row.request, row.position))):
                if source.request == target.request and source.position + 1 == target.position:
                    learn(source, target, layer)
    return together, alone


def likely(table, running, layer):
    """Entries of the layer by the sum of the shares with which they followed what is running."""
    together, alone = table
    score = {}
    for target in sorted({entry for _, entry in together if entry[0] == layer}):
        shares = [together[source, target] / alone[source, layer] for source in running if alone[source, layer]]
        score[target] = sum(shares)
    return sorted((entry for entry in score if score[entry] > 0), key=lambda entry: (-score[entry], entry))
