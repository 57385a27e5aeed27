"""Which loop replays a slot policy, and the loop made for it: its verbs are bound to the policy's own functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from remoe_sim.streams import Stream

VERBS = ("setup", "hit", "admit", "victim", "insert", "surplus")  # in a policy; a loop says touch for hit


def loop_for(stream: Stream) -> Any:
    """The loop over groups, or the faster one where every access is a group of its own."""
    if stream.steps.size == stream.entries.size:
        from remoe_sim.kernels.lone_slots import lone_replay

        return lone_replay
    from remoe_sim.kernels.slots import slot_replay

    return slot_replay


def plain_loop(loop: Any, functions: Sequence[Any], trims: bool) -> Any:
    """The loop in plain Python with these functions for VERBS; trims: whether the last is to be asked."""
    from remoe_sim.compile import bound

    return bound(loop, _named(functions, trims), loop.__name__)


@cache
def compiled_loop(loop: Any, policy: Any, trims: bool) -> Any:
    """The loop compiled for a class of policies whose verbs are static functions over a state array.

    Its machine code is kept under a name that changes with the policy's module and files, which may be a user's own.
    """
    from remoe_sim.compile import bound, kernel
    from remoe_sim.kernels.slots import LOOP

    functions = [getattr(policy, verb) for verb in VERBS]
    files = sorted({function.__code__.co_filename for function in functions})
    known_by = [policy.__module__.encode(), *(Path(file).read_bytes() for file in files)]
    digest = sha256(b"\0".join(known_by)).hexdigest()[:16]
    own = _named([kernel(function, inline=True) for function in functions], trims)
    return kernel(bound(loop, own, f"{loop.__name__}_{policy.__name__}_{digest}"), signature=LOOP)


@cache
def compiled_verb(policy: Any, verb: str) -> Any:
    """One of VERBS, compiled so that it can be an argument of a kernel."""
    from remoe_sim.compile import ENTRY, SETUP, VICTIM, kernel

    signature = {"setup": SETUP, "victim": VICTIM, "surplus": VICTIM}.get(verb, ENTRY)
    return kernel(getattr(policy, verb), signature=signature)


def _named(functions: Sequence[Any], trims: bool) -> dict[str, Any]:
    """Functions for VERBS by the names of `kernels.slot_verbs`."""
    names = ["touch" if verb == "hit" else verb for verb in VERBS]
    return {**dict(zip(names, functions, strict=True)), "TRIMS": trims}
