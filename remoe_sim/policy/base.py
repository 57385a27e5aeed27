"""What a cache policy is. A policy is one class in one file of `policies/`, or in a file of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from remoe_sim.policy.outcome import Outcome, Rules

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream


class Policy:
    """Common to all policies. `name` is what the user types, `summary` one line, `source` the paper or engine.

    Options are the keyword arguments of a policy's own `__init__`, which must have defaults: the user types
    `random:seed=7`, and they are converted to the type of the default.
    """

    kind: ClassVar[str] = "policy"
    name: ClassVar[str]
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    optimal: ClassVar[bool] = False  # fewest misses where all entries take the same of the limit
    inclusive: ClassVar[bool] = False  # a larger cache holds all that a smaller one does, so it never hits less
    by_last: ClassVar[bool] = True  # members of a group in order of last appearance, else of first
    admissions: ClassVar[tuple[str, ...]] = ("mandatory", "bypass")  # those it can work under
    online: ClassVar[bool] = True  # decides without knowing what comes
    needs_training: ClassVar[bool] = False  # whether `Rules.popularity` must be there
    label: str = ""  # the name as the user typed it, options included
    fast: bool = False  # whether a policy of somebody else is compiled without bounds checks

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        from remoe_sim.policy.guard import guard

        guard(cls)

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        """Replay one cache at one limit."""
        raise NotImplementedError(f"{type(self).__name__} must be a StackPolicy or a SlotPolicy")
