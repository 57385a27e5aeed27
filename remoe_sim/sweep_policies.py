"""The policies of a sweep: what the user typed, what tells whether a row was made by the same policy, and how a policy
gets to another machine."""

from __future__ import annotations

import hashlib
import inspect
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from remoe_sim.plugin_sources import is_ours, sources_of
from remoe_sim.policy import Policy, fast_policy
from remoe_sim.registry import find_policy

_LOADING = Lock()


@dataclass(frozen=True)
class ChosenPolicy:
    """A policy as the user named it. mark: hash of the file that it is in and of all that it imports from outside the
    installed packages, so that a changed one is computed again; source: that file, if it is the user's own; fast:
    compiled without bounds checks; note: what the hash cannot tell, or nothing.

    Pickled, it is what the user typed, with the user's own file: another process finds or loads the policy itself.
    """

    text: str
    policy: Policy
    mark: str
    source: bytes | None
    fast: bool = False
    note: str = ""

    @classmethod
    def of(cls, text: str, policy: Policy) -> ChosenPolicy:
        file = inspect.getsourcefile(type(policy))
        source = Path(file).read_bytes() if file and Path(file).is_file() else repr(type(policy)).encode()
        own, module = source if text.split(":")[0].endswith(".py") else None, sys.modules.get(type(policy).__module__)
        if module is None or is_ours(module.__name__) or not getattr(module, "__file__", None):
            return cls(text, policy, hashlib.sha256(source).hexdigest()[:16], own, policy.fast)
        sources = sources_of(module)
        note = ""
        if sources.unknown:
            note = (
                f"policy '{policy.label}' imports in a way that cannot be followed ({', '.join(sources.unknown)}), so "
                "rows that are in a file stay when what it imports there changes; name another file then"
            )
        return cls(text, policy, sources.digest, own, policy.fast, note)

    @property
    def label(self) -> str:
        return self.policy.label

    def __reduce__(self) -> tuple[Any, ...]:
        return _found, (self.text, self.mark, self.source, self.fast)


def _found(text: str, mark: str, source: bytes | None, fast: bool = False) -> ChosenPolicy:
    """The policy in this process, made once for all that ask; ValueError if there is none, or another of that name."""
    with _LOADING, fast_policy() if fast else nullcontext():
        return _made(text, mark, source, fast)


@cache
def _made(text: str, mark: str, source: bytes | None, fast: bool) -> ChosenPolicy:
    if source is not None:
        path, *options = text.split(":")
        kept = Path(_folder().name) / mark / Path(path).name
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(source)
        try:
            chosen = ChosenPolicy.of(":".join((str(kept), *options)), find_policy(":".join((str(kept), *options))))
        except ValueError as error:
            raise ValueError(str(error).replace(str(kept), path)) from None
        if chosen.mark != mark:
            raise ValueError(f"policy '{path}' imports other modules here; install the same here and where it is asked")
        return ChosenPolicy(text, chosen.policy, mark, source, fast)
    chosen = ChosenPolicy.of(text, find_policy(text))
    if chosen.mark != mark:
        raise ValueError(f"policy '{text}' is another one here; install the same version of the package it comes from")
    return chosen


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where users' own files are kept until the process ends; nobody else may write there."""
    return tempfile.TemporaryDirectory(prefix="remoe-sim-policies-")
