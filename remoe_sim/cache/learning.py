"""What is learnt from one part of a trace and judged on the other, and the files that keep it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.util.input_files import read_text
from remoe_sim.util.units import parse_count, parse_number

if TYPE_CHECKING:
    import os

    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Ints

DEFAULT_SHARE = 0.5
FEWEST_TO_PART = 4  # requests, from which on what learns is judged on others without being asked
WHAT = {"division": "how many experts each layer holds", "pins": "experts that always stay"}


def drawn_requests(trace: Trace, share: float | str, seed: int | str) -> tuple[Ints, Ints]:
    """Request numbers to learn from and all others, drawn by chance; ValueError if either part is empty."""
    share, of = parse_number(share, "train-share", 1), np.unique(trace.request)
    count = round(share * of.size)
    if not 0 < count < of.size:
        raise ValueError(
            f"train-share {share:g} of {of.size} requests leaves none to train on or none to judge on; give a share "
            "such as 0.5 and a trace of several requests"
        )
    drawn = np.random.default_rng(parse_count(seed, "train-seed")).permutation(of)
    return drawn[:count], drawn[count:]


def parted(trace: Trace, share: float | str, seed: int | str) -> tuple[Trace, Trace]:
    """The trace of a share of the requests and that of all others; a lone request is cut in two by its steps."""
    if trace.requests > 1:
        one, other = (trace.select(requests=some.tolist()) for some in drawn_requests(trace, share, seed))
        return one, other
    share, steps = parse_number(share, "train-share", 1), np.unique(trace.step)
    count = round(share * steps.size)
    if not 0 < count < steps.size:
        raise ValueError(
            f"train-share {share:g} of {steps.size} steps leaves none to train on or none to judge on; give a share "
            "such as 0.5 and a longer trace"
        )
    early = trace.step < steps[count]
    return trace.select(tokens=early), trace.select(tokens=~early)


def read_kept(kind: str, path: str | os.PathLike[str]) -> dict[int, Any]:
    """What a file keeps by layer number: `division` or `pins`. Raises ValueError for a file of another form."""
    try:
        table = tomllib.loads(read_text(Path(path), kind)).get(kind)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"{kind} '{path}' cannot be read ({why}); give the path of a file") from None
    except ValueError:
        table = None
    found = {int(layer): value for layer, value in table.items() if layer.isdigit()} if isinstance(table, dict) else {}
    several = [one if kind == "pins" else [one] for one in found.values()]
    numbers = all(isinstance(some, list) and all(type(one) is int and one >= 0 for one in some) for some in several)
    if not found or not numbers or len(found) != len(table or ()):
        example = "0 = [3, 17]" if kind == "pins" else "0 = 8"
        raise ValueError(
            f"{kind} '{path}' is not a file of {WHAT[kind]}; give TOML with a table [{kind}] of lines such as {example}"
        )
    return found


def write_kept(kind: str, path: str | os.PathLike[str], by_layer: Mapping[int, int | Sequence[int]]) -> None:
    """Write a division or pins as TOML, which `read_kept` reads."""
    lines = [f"{layer} = {list(value) if isinstance(value, Sequence) else value}" for layer, value in by_layer.items()]
    Path(path).write_text(f"# by MoE layer: {WHAT[kind]}\n[{kind}]\n" + "\n".join(lines) + "\n", "utf-8")


def division_of(trace: Trace, given: str | os.PathLike[str] | Mapping[int, int] | Sequence[int]) -> tuple[int, ...]:
    """Experts of each MoE layer, from `8,12,6`, a sequence, {layer: experts} or a file of `write_kept`.

    Raises ValueError for one that does not name every MoE layer once.
    """
    numbers = trace.layer_numbers
    if isinstance(given, str) and given.replace(",", "").replace(" ", "").isdigit():
        given = [parse_count(one, "division") for one in given.split(",")]
    elif isinstance(given, str) or hasattr(given, "__fspath__"):
        given = read_kept("division", given)
    if isinstance(given, Mapping):
        if set(given) != set(numbers):
            raise ValueError(
                f"the division is of {len(given)} layers, {min(given)} to {max(given)}, and the trace has "
                f"{len(numbers)} MoE layers, {numbers[0]} to {numbers[-1]}; give a division of this model"
            )
        given = [given[number] for number in numbers]
    assert not hasattr(given, "__fspath__")
    experts = tuple(parse_count(one, "division") for one in given)
    if len(experts) != len(numbers):
        raise ValueError(
            f"the division is of {len(experts)} layers and the trace has {len(numbers)} MoE layers; give a number of "
            "experts for each of them"
        )
    return experts
