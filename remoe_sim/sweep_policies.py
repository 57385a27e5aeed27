"""The policies of a sweep: what the user typed, what tells whether a row was made by the same policy, and how a policy
gets to another machine."""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from remoe_sim.policy import Policy
from remoe_sim.registry import find_policy

_LOADING = Lock()


@dataclass(frozen=True)
class ChosenPolicy:
    """A policy as the user named it. mark: hash of the file that it is in, so that a changed one is computed anew;
    source: that file, if it is the user's own.

    Pickled, it is what the user typed, with the user's own file: another process finds or loads the policy itself.
    """

    text: str
    policy: Policy
    mark: str
    source: bytes | None

    @classmethod
    def of(cls, text: str, policy: Policy) -> ChosenPolicy:
        file = inspect.getsourcefile(type(policy))
        source = Path(file).read_bytes() if file and Path(file).is_file() else repr(type(policy)).encode()
        mark = hashlib.sha256(source).hexdigest()[:16]
        return cls(text, policy, mark, source if text.split(":")[0].endswith(".py") else None)

    @property
    def label(self) -> str:
        return self.policy.label

    def __reduce__(self) -> tuple[Any, ...]:
        return _found, (self.text, self.mark, self.source)


def _found(text: str, mark: str, source: bytes | None) -> ChosenPolicy:
    """The policy in this process, made once for all that ask; ValueError if there is none, or another of that name."""
    with _LOADING:
        return _made(text, mark, source)


@cache
def _made(text: str, mark: str, source: bytes | None) -> ChosenPolicy:
    if source is not None:
        path, *options = text.split(":")
        kept = Path(_folder().name) / mark / Path(path).name
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(source)
        try:
            return ChosenPolicy(text, find_policy(":".join((str(kept), *options))), mark, source)
        except ValueError as error:
            raise ValueError(str(error).replace(str(kept), path)) from None
    chosen = ChosenPolicy.of(text, find_policy(text))
    if chosen.mark != mark:
        raise ValueError(f"policy '{text}' is another one here; install the same version of the package it comes from")
    return chosen


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where users' own files are kept until the process ends; nobody else may write there."""
    return tempfile.TemporaryDirectory(prefix="remoe-sim-policies-")
