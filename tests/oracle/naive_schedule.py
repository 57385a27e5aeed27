"""Slow and obvious twins of scheduling and re-routing, written from their descriptions alone.

A request's rows are cut into pieces: prefill steps, chunks of them, decode tokens or windows. Rows are known by index.
"""

import math
from collections import deque
from dataclasses import replace

import numpy as np

from tests.oracle.naive import DECODE


def schedule(rows, size=1, chunk=None, draft=0, accepted=None, arrival=None):
    """Steps, each a list of row indices. accepted: drafts accepted after each row; arrival: the order of requests."""
    arrival = list(dict.fromkeys(row.request for row in rows)) if arrival is None else arrival
    waiting = deque(pieces(rows, request, chunk, draft, accepted) for request in arrival)
    running, steps, clock, holder = [], [], 0, None
    while waiting or running:
        while waiting and len(running) < size:
            running.append({"pieces": waiting.popleft(), "since": clock, "rank": len(arrival) - len(waiting)})
        step, asking = [], [one for one in running if one["pieces"][0][0] != DECODE]
        if chunk is None and asking:
            step += asking[0]["pieces"].popleft()[1]  # a prompt is a step of its own
        else:
            for one in running:
                if one not in asking:
                    step += one["pieces"].popleft()[1]
            if asking:
                holder = holder if holder in asking else min(asking, key=lambda one: (one["since"], one["rank"]))
                step += holder["pieces"].popleft()[1]
            clock += 1
            for one in running:  # since when a request waits for its next prompt
                if one["pieces"] and one not in asking and one["pieces"][0][0] != DECODE:
                    one["since"] = clock
            if holder and (not holder["pieces"] or holder["pieces"][0][0] == DECODE):
                holder = None
        steps.append(step)
        running = [one for one in running if one["pieces"]]
    return steps


def pieces(rows, request, chunk, draft, accepted):
    """Pairs of a phase and the row indices of a request that are never separated."""
    mine = deque(index for index, row in enumerate(rows) if row.request == request)
    found = deque()
    while mine:
        first = rows[mine[0]]
        most = 1 + (draft if accepted is None else accepted[mine[0]]) if first.phase == DECODE else chunk or len(rows)
        piece = []
        while mine and len(piece) < most:
            row = rows[mine[0]]
            if row.phase != first.phase or (row.phase != DECODE and row.step != first.step):
                break
            piece.append(mine.popleft())
        found.append((first.phase, piece))
    return found


def accepted_drafts(tokens, draft, accept, seed):
    """How many drafts after each row are accepted before the first that is not."""
    chances = 1 - np.random.default_rng([seed, 1]).random(tokens)
    return [next((n for n in range(draft) if chance > accept ** (n + 1)), draft) for chance in chances]


def rescheduled(rows, steps):
    """The rows in the order of the steps."""
    return [replace(rows[index], step=number) for number, step in enumerate(steps) for index in step]


def distinct(rows):
    """Per decode step and layer where an expert is wanted: how many tokens want any, and the distinct experts."""
    groups = {}
    for row in rows:
        for layer, decision in enumerate(row.decisions):
            chosen = {expert for expert in decision or [] if expert is not None}
            if row.phase == DECODE and chosen:
                groups.setdefault((row.step, layer), []).append(chosen)
    return {at: (len(wants), len(set().union(*wants))) for at, wants in groups.items()}


# --- re-routing; scores[row][layer]: probabilities of all experts, or weights of the slots of a decision


def reroute(rows, scores, method, amount, keep, cache):
    """Rows with new decisions, changed slots, and the share of its mass that each decode decision lost, by layer."""
    new = [replace(row, decisions=list(row.decisions)) for row in rows]
    changed, lost = 0, []
    for layer in range(len(rows[0].decisions) if rows else 0):
        recent, ranges = [], []  # residents, the most recent last; of log-probabilities
        for step in sorted({row.step for row in rows}):
            members = [index for index, row in enumerate(rows) if row.step == step and any_slot(row.decisions[layer])]
            for index in members:
                old, mass = rows[index].decisions[layer], scores[index][layer]
                if method != "drop":
                    ranges.append(logarithm(max(mass)) - logarithm(min(mass)))
                if rows[index].phase != DECODE:
                    continue
                if method == "drop":
                    decision, share = dropped(old, mass, amount, keep, recent)
                elif None in old:
                    decision, share = old, 0.0
                else:
                    margin = amount * sum(ranges) / len(ranges)
                    decision, share = replaced(old, mass, method, amount, margin, keep, recent)
                new[index].decisions[layer] = decision
                changed += len(set(old) - set(decision))
                lost.append(share)
            for index in members:
                for expert in new[index].decisions[layer]:
                    if expert is not None:
                        recent = [*(one for one in recent if one != expert), expert]
            recent = recent[max(len(recent) - cache, 0) :]
    return new, changed, lost


def any_slot(decision):
    return any(expert is not None for expert in decision or [])


def logarithm(probability):
    return math.log(max(probability, 2.0**-24))


def dropped(old, weights, amount, keep, residents):
    there = [slot for slot, expert in enumerate(old) if expert is not None]
    total = sum(weights[slot] for slot in there)
    weakest = sorted(there, key=lambda slot: (-weights[slot], slot))[keep:]
    leaving = [s for s in weakest if old[s] not in residents and weights[s] * len(there) < amount * total]
    decision = [None if slot in leaving else expert for slot, expert in enumerate(old)]
    return decision, sum(weights[slot] for slot in leaving) / total


def replaced(old, probs, method, amount, margin, keep, residents):
    ids = range(len(probs))

    def among_equals(expert):
        return old.index(expert) if expert in old else len(old) + expert

    ranked = sorted(ids, key=lambda expert: (-probs[expert], among_equals(expert)))
    before = {expert: sum(probs[other] for other in ranked[:rank]) for rank, expert in enumerate(ranked)}

    if method == "substitute":
        return substituted(old, probs, amount, ranked, keep, residents)

    def preference(expert):
        resident = expert in residents
        if method in ("cache-aware", "cache-prior"):
            return -logarithm(probs[expert]) - resident * margin
        if method == "max-rank":
            return not (resident and ranked.index(expert) < amount)
        return not (resident and before[expert] < amount * sum(probs))

    fixed = ranked[: min(keep, len(old))]
    best = sorted(ids, key=lambda expert: (expert not in fixed, preference(expert), ranked.index(expert)))[: len(old)]
    if set(best) == set(old):
        return old, 0.0
    mass = sum(probs[expert] for expert in old)
    return sorted(best, key=ranked.index), (mass - sum(probs[expert] for expert in best)) / mass


def substituted(old, probs, amount, ranked, keep, residents):
    decision = sorted(old, key=ranked.index)
    for cold in reversed([expert for expert in decision[keep:] if expert not in residents]):
        free = [expert for expert in ranked if expert in residents and expert not in decision]
        if not free or probs[free[0]] < amount * probs[cold]:
            break
        decision[decision.index(cold)] = free[0]
    if set(decision) == set(old):
        return old, 0.0
    mass = sum(probs[expert] for expert in old)
    return sorted(decision, key=ranked.index), (mass - sum(probs[expert] for expert in decision)) / mass
