"""Which loop replays a slot policy, and the loop made for it: its verbs are bound to the policy's own functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from sys import modules
from typing import TYPE_CHECKING, Any

from remoe_sim.util.plugin_sources import is_ours, sources_of

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream

VERBS = ("setup", "hit", "admit", "victim", "insert", "surplus")  # in a policy; a loop says touch for hit


def loop_for(stream: Stream) -> Any:
    """The loop over groups, or the faster one where every access is a group of its own."""
    if stream.steps.size == stream.entries.size:
        from remoe_sim.kernels.slots import lone_replay

        return lone_replay
    from remoe_sim.kernels.slots import slot_replay

    return slot_replay


def plain_loop(loop: Any, functions: Sequence[Any], trims: bool) -> Any:
    """The loop in plain Python with these functions for VERBS; trims: whether the last is to be asked."""
    from remoe_sim.kernels.compile import bound

    return bound(loop, _named(functions, trims), loop.__name__)


def plain_verbs(policy: Any, fast: bool) -> list[Any]:
    """VERBS of a compiled policy in plain Python; what they call is compiled."""
    from remoe_sim.kernels.checked import checked_function

    functions = [getattr(policy, verb) for verb in VERBS]
    return functions if fast or is_ours(policy.__module__) else [checked_function(one) for one in functions]


@cache
def compiled_loop(loop: Any, policy: Any, trims: bool, fast: bool) -> Any:
    """The loop compiled for a class of policies whose verbs are static functions over a state array.

    Its machine code is kept under a name that changes with the policy's module and files, which may be a user's own.
    fast: without bounds checks of what is not ours.
    """
    from remoe_sim.kernels.compile import bound, kernel
    from remoe_sim.kernels.slots import LOOP

    name = f"{loop.__name__}_{policy.__name__}_{_digest(policy)}{'' if fast else '_checked'}"
    own = _named([_verb(policy, verb, fast) for verb in VERBS], trims)
    return kernel(bound(loop, own, name), signature=LOOP)


@cache
def compiled_verb(policy: Any, verb: str, fast: bool) -> Any:
    """One of VERBS, compiled so that it can be an argument of a kernel."""
    from remoe_sim.kernels.compile import ENTRY, SETUP, VICTIM, bound, kernel

    signature = {"setup": SETUP, "victim": VICTIM, "surplus": VICTIM}.get(verb, ENTRY)
    if is_ours(policy.__module__):
        return kernel(getattr(policy, verb), signature=signature)
    from remoe_sim.kernels import slots

    name = f"{verb}_{policy.__name__}_{_digest(policy)}{'' if fast else '_checked'}"
    call: Any = slots.call_victim if signature is VICTIM else slots.call_verb
    return kernel(bound(call, {"verb": _verb(policy, verb, fast)}, name), signature=signature)


def _verb(policy: Any, verb: str, fast: bool) -> Any:
    """One of VERBS as a part of what calls it. Those of others cannot write to what the loop protects."""
    from remoe_sim.kernels.checked import checked_function
    from remoe_sim.kernels.compile import READ_ONLY_VICTIM, kernel

    function = getattr(policy, verb)
    if is_ours(policy.__module__):
        return kernel(function, inline=True)
    signature = READ_ONLY_VICTIM if verb in ("victim", "surplus") else None
    own = function if fast else checked_function(function)
    return kernel(own, inline=True, signature=signature, check=not fast, keep=False)


def _digest(policy: Any) -> str:
    """Of all that a policy's machine code is made of, but for the kernels, which the folder is named by."""
    if is_ours(policy.__module__):
        files = sorted({getattr(policy, verb).__code__.co_filename for verb in VERBS})
        known_by = [policy.__module__.encode(), *(Path(file).read_bytes() for file in files)]
    else:
        own = [one.__module__ for one in policy.__mro__ if not is_ours(one.__module__) and one is not object]
        loaded = [modules[name] for name in own if getattr(modules.get(name), "__file__", None)]
        known_by = [policy.__module__.encode(), *(sources_of(module).digest.encode() for module in loaded)]
    return sha256(b"\0".join(known_by)).hexdigest()[:16]


def _named(functions: Sequence[Any], trims: bool) -> dict[str, Any]:
    """Functions for VERBS by the names of `kernels.slot_verbs`."""
    names = ["touch" if verb == "hit" else verb for verb in VERBS]
    return {**dict(zip(names, functions, strict=True)), "TRIMS": trims}
