"""What the plain formats share: names of requests, words for phases, and what they assume about forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.assembling import Ints, Records
from remoe_sim.errors import TraceError
from remoe_sim.import_source import Source
from remoe_sim.trace import DECODE, PHASES, PREFILL

ASSUMED_STEPS = (
    "forward passes are not recorded: each decode token is a step of its own, the prompt of a request is one prefill "
    "step, and requests follow one another"
)


def request_ids(source: Source, names: Sequence[Any]) -> npt.NDArray[np.int64]:
    """A number for each name of a request: its own if all are numbers, else 0, 1, ... as they appear (noted)."""
    stripped = [str(name).strip() for name in names]
    distinct = {name: number for number, name in enumerate(dict.fromkeys(stripped))}
    if all(name.isdecimal() and len(name) < 19 and str(int(name)) == name for name in distinct):
        distinct = {name: int(name) for name in distinct}
    else:
        source.note("requests are named by text and numbered in the order in which they appear")
    return np.array([distinct[name] for name in stripped], np.int64)


def phase_codes(words: Sequence[Any], codes: Ints, error: Callable[[int, str], TraceError]) -> npt.NDArray[np.uint8]:
    """PREFILL or DECODE for each row, from codes[rows] into `words`; raises error(row, why) for other words."""
    known = {PHASES[PREFILL]: PREFILL, PHASES[DECODE]: DECODE}
    table = np.array([known.get(str(word).strip(), 255) for word in words], np.uint8)
    phases = table[codes]
    wrong = np.flatnonzero(phases == 255)
    if wrong.size:
        given = words[int(codes[wrong[0]])]
        raise error(int(wrong[0]), f"'{given}', expected {' or '.join(PHASES)}; correct it")
    return phases


def assume_steps(source: Source, records: Records) -> None:
    """Notes where the steps come from."""
    source.note(ASSUMED_STEPS if records.step is None else "forward passes as the column 'step' gives them")
