"""Which requests of two traces are compared with which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from remoe_sim.errors import unknown
from remoe_sim.request_sums import Requests
from remoe_sim.trace import DECODE

PAIRINGS = ("auto", "paired", "unpaired")
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Places of the requests that take part, int64[n] of either side; paired: one by one the same. why: in words."""

    a: Places
    b: Places
    paired: bool
    why: str


def pairs_of(a: Requests, b: Requests, pairing: str) -> Pairs:
    """`auto` pairs traces that hold requests of the same numbers and prompts; `paired` those of the same numbers.

    Raises ValueError if there is nothing to pair.
    """
    if pairing not in PAIRINGS:
        raise unknown("pairing", pairing, PAIRINGS)
    everything = np.arange(a.ids.size), np.arange(b.ids.size)
    if pairing == "paired":
        common, in_a, in_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
        if not common.size:
            raise ValueError("no request number is in both traces, so nothing can be paired; use --pairing unpaired")
        return Pairs(in_a, in_b, True, "paired by their numbers, as asked for")
    if pairing == "unpaired":
        return Pairs(*everything, False, "unpaired, as asked for")
    if not np.array_equal(a.ids, b.ids):
        return Pairs(*everything, False, "unpaired: the traces hold different requests")
    if not _same_prompts(a, b):
        return Pairs(*everything, False, "unpaired: requests of the same number have different prompts")
    return Pairs(*everything, True, "paired: both traces hold the same requests")


def _same_prompts(a: Requests, b: Requests) -> bool:
    """Whether decoding begins at the same positions, after the same tokens as far as both traces know them."""
    if not np.array_equal(_first_positions(a), _first_positions(b)):
        return False
    mine, theirs = _prompt_tokens(a), _prompt_tokens(b)
    return mine is None or theirs is None or np.array_equal(mine, theirs)


def _first_positions(requests: Requests) -> Places:
    trace = requests.trace
    rows = np.flatnonzero(trace.phase == DECODE)
    first = np.full(requests.ids.size, np.iinfo(np.int64).max)
    np.minimum.at(first, requests.of_row[rows], trace.position[rows])
    return first


def _prompt_tokens(requests: Requests) -> Places | None:
    """int64[n, 3]: request, position and id of every prompt token; None where ids are not known."""
    trace = requests.trace
    if trace.token_id is None:
        return None
    rows = np.flatnonzero((trace.phase != DECODE) & (requests.of_row >= 0))
    rows = rows[np.lexsort((trace.position[rows], trace.request[rows]))]
    return np.stack([trace.request[rows], trace.position[rows], trace.token_id[rows]], axis=1).astype(np.int64)
