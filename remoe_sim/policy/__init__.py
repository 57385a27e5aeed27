"""What a cache policy is, how one is found, and how one is driven. Policies import from here."""

from remoe_sim.policy.base import Policy
from remoe_sim.policy.guard import fast_policy
from remoe_sim.policy.outcome import Depths, Outcome, Part, Rules, Stack, empty_outcome
from remoe_sim.policy.slot import CompiledSlotPolicy, SlotPolicy
from remoe_sim.policy.stack import FastPath, Ranks, StackPolicy
from remoe_sim.trace.accesses import Stream
from remoe_sim.util.arrays import Longs

__all__ = [
    "CompiledSlotPolicy",
    "Depths",
    "FastPath",
    "Longs",
    "Outcome",
    "Part",
    "Policy",
    "Ranks",
    "Rules",
    "SlotPolicy",
    "Stack",
    "StackPolicy",
    "Stream",
    "empty_outcome",
    "fast_policy",
]
