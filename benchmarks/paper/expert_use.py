"""How evenly two models use their experts, with intervals over requests for what is no ratio.

Routing entropy and load-balance CV are functions of how often each expert is used by all requests together. The
jackknife turns them into means over requests: the pseudo-value of a request is n·θ − (n − 1)·θ without it (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, section 11.5). They are shifted so that their mean is θ as measured:
what few requests do to θ itself (the entropy comes out too low, the CV too high) is not corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from remoe_sim.studies.bootstrap import Ratios, differences
from remoe_sim.studies.compare import Requests, pairs_of
from remoe_sim.studies.compare_result import Difference, adjusted
from remoe_sim.trace import Trace
from remoe_sim.util.threads import map_layers

Uses = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


def entropy(uses: Uses) -> Reals:
    """Routing entropy of uses int64[..., experts] over ln E: 1 when all are used equally; NaN without uses."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = uses / uses.sum(axis=-1, keepdims=True)
        found: Reals = -np.where(share > 0, share * np.log(np.where(share > 0, share, 1.0)), share).sum(axis=-1)
        return found / np.log(uses.shape[-1])


def balance(uses: Uses) -> Reals:
    """Coefficient of variation of uses int64[..., experts]: standard deviation over mean; NaN without uses."""
    with np.errstate(invalid="ignore"):
        found: Reals = uses.std(axis=-1) / uses.mean(axis=-1)
        return found


OF_ALL: dict[str, Callable[[Uses], Reals]] = {"routing_entropy": entropy, "load_balance_cv": balance}
NAMES = (*OF_ALL, "distinct_experts_of_a_request")


def uses_of_requests(requests: Requests, index: int) -> Uses:
    """int64[requests, experts]: how often each request that decodes, its prompt too, uses each expert of a layer."""
    trace = requests.trace
    experts, decisions = trace.model.experts[index], trace.decisions(index)
    chosen = np.repeat((requests.of_row >= 0)[:, None], decisions.experts.shape[1], axis=1)
    if decisions.routed is not None:
        chosen &= decisions.routed[:, None]
    if decisions.valid is not None:
        chosen &= decisions.valid
    cell = requests.of_row[:, None] * experts + decisions.experts
    return np.bincount(cell[chosen], minlength=requests.ids.size * experts).reshape(-1, experts)


def pseudo_values(function: Callable[[Uses], Reals], uses: Uses) -> Reals:
    """float64[requests], whose mean is the function of all uses; NaN where the others have no use of the layer."""
    count, total = len(uses), uses.sum(axis=0)
    whole = function(total)
    if count < 2:
        return np.full(count, whole)
    without = function(total - uses)
    return whole + (count - 1) * (without.mean() - without)


@dataclass(frozen=True)
class Evenness:
    """pooled: means over layers, one for each of NAMES; layers: the same layer by layer; distinct: experts that are
    used at all, mean over layers, of either side. Holm's adjustment is over `pooled`, and over each metric's layers."""

    pooled: tuple[Difference, ...]
    layers: tuple[Difference, ...]
    distinct: tuple[float, float]


def compare_evenness(a: Trace, b: Trace, pairing: str, alpha: float, resamples: int, seed: int) -> Evenness:
    """Differences b − a of traces with the same layers, as `remoe_sim.compare` has them of reuse."""
    requests = Requests.of(a), Requests.of(b)
    pairs = pairs_of(*requests, pairing)
    sides = [_side(one, places) for one, places in zip(requests, (pairs.a, pairs.b), strict=True)]
    ratios = [Ratios(values, np.ones_like(values)) for values, _ in sides]
    found = differences(ratios[0], ratios[1], pairs.paired, resamples, seed)
    everything = []
    for at in range(found.value.size):
        layer, metric = divmod(at, len(NAMES))
        one, other = (None if np.isnan(side.values[at]) else float(side.values[at]) for side in ratios)
        everything.append(Difference(
            NAMES[metric], a.layer_numbers[layer - 1] if layer else None, None, None, one, other,
            float(found.error[at]) if np.isfinite(found.error[at]) else None, found.interval(at, alpha), 1 - alpha,
            found.p_value(at), at,
        ))  # fmt: skip
    pooled, layers = everything[: len(NAMES)], everything[len(NAMES) :]
    by_metric = [adjusted([row for row in layers if row.metric == name], found, alpha) for name in NAMES]
    return Evenness(
        adjusted(pooled, found, alpha), tuple(row for rows in by_metric for row in rows), (sides[0][1], sides[1][1])
    )


def _side(requests: Requests, places: npt.NDArray[np.int64]) -> tuple[Reals, float]:
    """float64[(1 + layers) · metrics, requests], means over layers first; the distinct experts of a layer, on average.

    A layer that nobody uses, or only one request, has NaN and is left out of the means.
    """

    def one_layer(index: int) -> tuple[Reals, int]:
        uses = uses_of_requests(requests, index)[places]
        smooth = [pseudo_values(function, uses) for function in OF_ALL.values()]
        return np.stack([*smooth, (uses > 0).sum(axis=1)]), int(np.count_nonzero(uses.sum(axis=0)))

    rows, distinct = zip(*map_layers(one_layer, requests.trace.moe_layers), strict=True)
    values = np.stack(rows)
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean = np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return np.concatenate([mean[None], values]).reshape(-1, values.shape[2]), float(np.mean(distinct))
