"""Slow twin of `remoe_sim.kernels.synthesis`: lists, exact fractions, and the rule written down as it is said."""

from fractions import Fraction

STRATA, RANGE = 64, 2**32
ABSENT = 3


class Numbers:
    """xorshift64, the upper half of each number."""

    def __init__(self, state):
        self.state = state % 2**64

    def below_range(self):
        x = self.state
        x ^= x << 13 & (2**64 - 1)
        x ^= x >> 7
        x ^= x << 17 & (2**64 - 1)
        self.state = x
        return x >> 32

    def order(self):
        """0 to STRATA - 1 in random order."""
        numbers = list(range(STRATA))
        for at in reversed(range(1, STRATA)):
            other = self.below_range() * (at + 1) // RANGE
            numbers[at], numbers[other] = numbers[other], numbers[at]
        return numbers


def draw(kinds, popularity, pull, k, state):
    """A decision per token, None where it is ABSENT; and (kind, depth or None if new) of every choice."""
    numbers, strata, drawn = Numbers(state), [], 0
    recent, new = [], list(range(len(popularity)))  # by recency; not used so far, in the order in which they lie
    decisions, depths = [], []
    for kind in kinds:
        if kind == ABSENT:
            decisions.append(None)
            continue
        if drawn % STRATA == 0:
            strata = [numbers.order() for _ in range(k)]
        weight = {e: Fraction(pull[kind][d]) * Fraction(popularity[e]) for d, e in enumerate(recent)}
        weight |= {e: Fraction(pull[kind][-1]) * Fraction(popularity[e]) for e in new}
        decision = []
        for slot in range(k):
            part = (strata[slot][drawn % STRATA] + (numbers.below_range() + Fraction(1, 2)) / RANGE) / STRATA
            rest = part * sum(weight.values())
            for expert in [*recent, *new]:
                if expert in weight:
                    if rest < weight[expert]:
                        break
                    rest -= weight[expert]
            decision.append(expert)
            del weight[expert]
            depths.append((kind, recent.index(expert) if expert in recent else None))
        recent = [*reversed(decision), *(e for e in recent if e not in decision)]
        new = [e for e in new if e not in decision]
        decisions.append(decision)
        drawn += 1
    return decisions, depths
