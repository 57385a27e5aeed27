"""What a loop calls a slot policy's functions; see `remoe_sim.policy.SlotPolicy` for when it calls them.

Loops import these names, and every policy's own functions take their place when a loop is made for it.
"""

from __future__ import annotations

TRIMS = False  # whether the policy defines surplus


def setup(state, limit):
    """The policy's `setup`."""


def touch(state, entry):
    """The policy's `hit`."""


def admit(state, entry):
    """The policy's `admit`."""


def victim(state, protected):
    """The policy's `victim`: an entry, or -1."""


def insert(state, entry):
    """The policy's `insert`."""


def surplus(state, protected):
    """The policy's `surplus`: an entry, or -1."""
