"""The terms of the fine-tuning loss as slow loops over plain numbers: the oracle of remoe_sim.finetune.terms."""

import math

TINY = 1e-8


def _mean(values):
    return sum(values) / len(values) if values else 0.0


def _pairs(real, distance):
    return [
        (row, at, at - distance)
        for row, there in enumerate(real)
        for at in range(distance, len(there))
        if there[at] and there[at - distance]
    ]


def _kl(p, q):
    return sum(math.exp(one) * (one - other) for one, other in zip(p, q, strict=True))


def language_model(logits, ids, real):
    lost = []
    for row, at, before in _pairs(real, 1):
        scores = logits[row][before]
        lost.append(math.log(sum(math.exp(one) for one in scores)) - scores[ids[row][at]])
    return _mean(lost)


def reuse(logp, experts, real):
    pairs = _pairs(real, 1)
    if not pairs:
        return 0.0
    mass = [
        sum(math.exp(logp[row][at][one]) for one in experts[row][before]) / len(experts[row][before])
        for row, at, before in pairs
    ]
    return -math.log(_mean(mass) + TINY)


def smooth(logp, real):
    return lag(logp, real, [1])


def lag(logp, real, lags=(1, 2, 4, 8, 16)):
    found = []
    for distance in lags:
        pairs = _pairs(real, distance)
        if pairs:
            found.append(
                _mean(
                    [
                        (_kl(logp[row][at], logp[row][before]) + _kl(logp[row][before], logp[row][at])) / 2
                        for row, at, before in pairs
                    ]
                )
            )
    return _mean(found)


def working_set(logp, real, window=16):
    found = []
    for row, there in enumerate(real):
        for start in range(0, len(there) - window + 1, window):
            inside = range(start, start + window)
            if all(there[at] for at in inside):
                mean = [_mean([math.exp(logp[row][at][one]) for at in inside]) for one in range(len(logp[row][0]))]
                found.append(-sum(one * math.log(one + TINY) for one in mean))
    return _mean(found)


def trust(logp, reference, real):
    return _mean(
        [
            _kl(logp[row][at], reference[row][at])
            for row, there in enumerate(real)
            for at in range(len(there))
            if there[at]
        ]
    )


def load_balance(logp, experts, real):
    tokens = [(row, at) for row, there in enumerate(real) for at in range(len(there)) if there[at]]
    total = 0.0
    for one in range(len(logp[0][0])):
        slots = [chosen == one for row, at in tokens for chosen in experts[row][at]]
        total += _mean(slots) * _mean([math.exp(logp[row][at][one]) for row, at in tokens])
    return len(logp[0][0]) * total
