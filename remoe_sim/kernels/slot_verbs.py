"""What a loop calls a slot policy's functions; see `remoe_sim.policy.SlotPolicy` for when it calls them.

Loops import these names, and every policy's own functions take their place when a loop is made for it.
"""

from __future__ import annotations

TRIMS = False  # whether the policy defines surplus


def verb(state, what):
    """Any of the verbs below, which takes the place of this where `call_verb` is compiled for it."""


def call_verb(state, what):
    """One verb that can be an argument of a loop."""
    verb(state, what)


def call_victim(state, protected):
    """One verb that answers."""
    return verb(state, protected)


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
