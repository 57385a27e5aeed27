"""How far off a hit rate is that is taken from the curves of other models.

    python -m benchmarks.fidelity.hit_rates [--output benchmarks/results/hit_rates.json]

Every model that has curves is left out in turn; its known hit rates are compared with what the curves of the nearest
other models say (`remoe_sim.hit_rate_curve(model, without=model)`). Errors are in points; `inside` is the share of
known rates within the range that is given with the expected one.
"""

from __future__ import annotations

from statistics import median

import remoe_sim
from benchmarks.script import options, show
from remoe_sim.models.hit_rates import all_series
from remoe_sim.util.cards import card_names


def left_out(name: str) -> dict[str, object]:
    """The errors of one model, and how many of its rates are in range."""
    curve = remoe_sim.hit_rate_curve(name, without=name)
    errors, inside = [], 0
    for series in all_series()[name]:
        for share, rate in zip(series.shares, series.rates, strict=True):
            said = curve.at(share)
            errors.append(100 * (said.rate - rate))
            inside += said.low <= rate <= said.high
    return {"model": name, "rates": len(errors), "errors": errors, "inside": inside / len(errors)}


def main() -> None:
    parser = options(__doc__, {"models": 3})
    parser.add_argument("--models", type=int, metavar="N", help="only the first N models")
    args = parser.parse_args()
    named = [name for name in all_series() if name in card_names("model")][: args.models]
    models = [left_out(name) for name in named]
    errors = sorted(abs(error) for one in models for error in one.pop("errors"))
    total = sum(one["rates"] for one in models)
    answer = {
        "models": models,
        "rates": total,
        "median_error_points": median(errors),
        "p90_error_points": errors[int(0.9 * len(errors))],
        "inside": sum(one["inside"] * one["rates"] for one in models) / total,
    }
    show(answer, args.output)


if __name__ == "__main__":
    main()
