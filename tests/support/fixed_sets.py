"""Policies that keep a fixed set of experts, and that set."""

from tests.oracle import naive

FIXED = ("static", "static-oracle")


def members(ranked, case, scope, cache=None, budget=None):
    """The best entries that fit each cache."""
    sizes = case.shape.sizes if budget is not None else [1] * len(case.shape.top_k)
    limits = {"global": cache if budget is None else budget}
    if scope == "layer":
        limits = dict.fromkeys(range(len(sizes)), cache if budget is None else budget // len(sizes))
    return [
        entry
        for where, limit in limits.items()
        for entry in naive.fitting([e for e in ranked if where in ("global", e[0])], limit, lambda e: sizes[e[0]])
    ]
