"""What keeps a policy of somebody else from harming others: read-only arrays, and errors that name its file and line.

A policy is ours if its class is in a module of this package; others come from a user's file or through an entry point.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import cached_property
from types import FunctionType
from typing import Any

import numpy as np

from remoe_sim.policy.outcome import Part, Rules, Stack
from remoe_sim.trace.accesses import Stream
from remoe_sim.util.errors import one_line
from remoe_sim.util.plugin_sources import PolicyError, is_ours, place_of

METHODS = (
    "replay", "keys", "preload_keys", "fast_path", "ranks", "depths", "count", "needed_bytes", "at_limit", "resume",
    "_state",
)  # fmt: skip
FAST_METHODS = ("stack", "ranks", "needed_bytes", "replay")
_FAST: ContextVar[bool] = ContextVar("fast policies", default=False)


@contextmanager
def fast_policy() -> Iterator[None]:
    """Compile the user's policies that are found meanwhile without bounds checks.

    That is faster, but a policy that writes out of bounds then ends the process, or changes results.
    """
    before = _FAST.set(True)
    try:
        yield
    finally:
        _FAST.reset(before)


def wants_fast() -> bool:
    """Whether policies that are found now are compiled without bounds checks."""
    return _FAST.get()


class _ReadOnly(Stream):
    """A stream whose arrays cannot be written to; `whole` is the one that it shows."""

    _whole: Stream

    @property
    def whole(self) -> Stream:
        shown: Stream = vars(self).get("_whole", self)  # there is none where a policy made another of it
        return shown

    @cached_property
    def first(self) -> Any:
        return read_only(self.whole.first) if self.whole is not self else super().first


def read_only(value: Any) -> Any:
    """The same without a copy, but so that its arrays cannot be written to; other things as they are."""
    if isinstance(value, np.ndarray):
        view = value.view()
        view.flags.writeable = False
        return view
    if isinstance(value, _ReadOnly):
        return value
    if isinstance(value, Stream):
        shown = _ReadOnly(*(read_only(getattr(value, field.name)) for field in fields(Stream)))
        object.__setattr__(shown, "_whole", value)
        return shown
    if isinstance(value, Rules):
        return Rules(value.mandatory, read_only(value.preload), read_only(value.popularity))
    if isinstance(value, Part):
        return Part(value.here, read_only(value.stream), value.fresh, value.base, read_only(value.later))
    if isinstance(value, list | tuple) and value and isinstance(value[0], Stream | Rules | Part):
        return [read_only(one) for one in value]
    return value


class _Guarded(Stack):
    """The stack of a policy of somebody else, which is told of parts that it cannot write to."""

    def __init__(self, policy: Any, run: Any) -> None:
        self._policy, self._run = policy, run

    def depths(self, part: Part) -> Any:
        with in_words(self._policy):
            return self._run.depths(read_only(part))

    def known(self) -> int:
        return int(self._run.known())


def guard(own: type, methods: Sequence[str] = METHODS) -> None:
    """Let the methods that a class of somebody else defines see read-only arrays, and say in words what they raise."""
    if not is_ours(own.__module__):
        for name in methods:
            method = vars(own).get(name)
            if isinstance(method, FunctionType):
                setattr(own, name, _guarded(method, name in ("stack", "resume")))


def _guarded(method: Callable[..., Any], stacks: bool) -> Any:
    @functools.wraps(method)
    def call(self: Any, *given: Any, **named: Any) -> Any:
        policy = getattr(self, "policy", self)  # of a fast path
        with in_words(policy):
            answer = method(self, *map(read_only, given), **{name: read_only(one) for name, one in named.items()})
        return _Guarded(policy, answer) if stacks and answer is not None else answer

    return call


@contextmanager
def in_words(policy: Any) -> Iterator[None]:
    """Turn what a policy of somebody else raises into a `PolicyError`."""
    try:
        yield
    except Exception as error:
        if is_ours(type(policy).__module__) or _is_told(error):
            raise
        raise failed(f"policy '{policy.label or policy.name}'", _files(policy), error) from error


def run_told(policy: Any, run: Callable[[bool], Any]) -> Any:
    """`run(False)`, in words if it raises. Compiled code does not know its lines: then `run(True)`, which must do the
    same in plain Python, is to say where."""
    with in_words(policy):
        try:
            return run(False)
        except Exception as error:
            if is_ours(type(policy).__module__) or _is_told(error) or place_of(error, _files(policy)):
                raise
            run(True)
            raise


def failed(what: str, files: set[str], error: Exception) -> PolicyError:
    """The error of a plug-in in one sentence; files: those that it is in."""
    place = place_of(error, files)
    where = f"{place[0]}, line {place[1]}" if place else next(iter(sorted(files)), "a file that is not known")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    from numba.core.errors import NumbaError

    if isinstance(error, NumbaError):  # pages, of which one line tells what is wrong
        lines = [line for line in lines if "readonly array" in line][:1] or lines[:2]
    said = " ".join(lines)
    text = f"{type(error).__name__}: {one_line(said)}" if said else type(error).__name__
    return PolicyError(f"{what} failed in {where}: {text}; correct it there (remoe-sim --traceback shows the calls)")


def _is_told(error: Exception) -> bool:
    """Whether the sentence is ours already: a ValueError or RuntimeError that this package raised."""
    if isinstance(error, PolicyError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return isinstance(error, ValueError | RuntimeError) and is_ours(name) and not isinstance(error, RecursionError)


def _files(policy: Any) -> set[str]:
    """The files of a policy's classes that are not ours."""
    return files_of(type(policy))


def files_of(own: type) -> set[str]:
    """The files of a class and of those it is derived from, but for ours."""
    found = set()
    for one in own.__mro__:
        module = sys.modules.get(one.__module__)
        if module is not None and not is_ours(one.__module__) and getattr(module, "__file__", None):
            found.add(str(module.__file__))
            found.add(inspect.getsourcefile(module) or str(module.__file__))
    return found
