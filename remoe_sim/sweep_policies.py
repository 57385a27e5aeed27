"""The policies of a sweep: what the user typed, and what tells whether a row was made by the same policy."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path

from remoe_sim.policy import Policy


@dataclass(frozen=True)
class ChosenPolicy:
    """A policy as the user named it. mark: hash of the file that it is in, so that a changed one is computed anew."""

    text: str
    policy: Policy
    mark: str

    @classmethod
    def of(cls, text: str, policy: Policy) -> ChosenPolicy:
        file = inspect.getsourcefile(type(policy))
        source = Path(file).read_bytes() if file and Path(file).is_file() else repr(type(policy)).encode()
        return cls(text, policy, hashlib.sha256(source).hexdigest()[:16])

    @property
    def label(self) -> str:
        return self.policy.label
