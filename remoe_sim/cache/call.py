"""One call that replays a trace: what was asked for, checked once, and the caches that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from remoe_sim.cache.caches import Caches, Pins, Preload
from remoe_sim.cache.settings import Limit, Settings, check_timed, known_sizes
from remoe_sim.trace.accesses import select_tokens
from remoe_sim.trace.reader import as_trace

if TYPE_CHECKING:
    from remoe_sim.devices.run import RunsOn
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.policy.base import Policy
    from remoe_sim.trace.accesses import Tokens
    from remoe_sim.trace.trace import Trace, TraceLike

Sizes = int | str | Sequence[int]  # bytes of an expert: one for all layers, or one per MoE layer


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call replays, checked; `of` makes it.

    caches: the trace with the sizes of experts that are known, the tokens that take part, settings, preload, pins
    policies: those that are replayed
    limit: of the cache, without what is reserved; None where a study has limits of its own
    on, model: what it runs on and whose sizes it takes; None without a device
    """

    caches: Caches
    policies: tuple[Policy, ...]
    limit: Limit | None = None
    on: RunsOn | None = None
    model: SizedModel | None = None

    @classmethod
    def of(
        cls,
        trace: TraceLike,
        *,
        settings: Settings,
        policies: Sequence[Policy],
        limit: Limit | None = None,
        reserve: int | str | Sequence[int | str] = (),
        on: RunsOn | None = None,
        expert_bytes: Sizes | None = None,
        needed_for: str | None = None,
        preload: TraceLike | None = None,
        pin: str | Mapping[int, Sequence[int]] | None = None,
        train: TraceLike | None = None,
    ) -> Call:
        """Read the trace, and check everything that depends on it.

        needed_for: what cannot do without sizes of experts; by default a limit in bytes.

        Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
        """
        if needed_for is None:
            needed_for = "" if limit is None or limit.budget is None else "a byte budget"
        trace, model = sized(trace, settings=settings, on=on, expert_bytes=expert_bytes, needed_for=needed_for)
        if limit is not None:
            limit = limit.without_reserve(trace, reserve)
        training = Preload.of(trace, train)
        caches = Caches(
            trace=trace,
            settings=settings,
            tokens=select_tokens(trace, settings.phase, settings.reset, settings.warmup),
            preload=Preload.of(trace, preload),
            pins=Pins.of(trace, pin, training),
            training=training,
        )
        return cls(caches=caches, policies=tuple(policies), limit=limit, on=on, model=model)

    @property
    def trace(self) -> Trace:
        return self.caches.trace

    @property
    def settings(self) -> Settings:
        return self.caches.settings

    @property
    def tokens(self) -> Tokens:
        return self.caches.tokens

    def also(self, policies: Sequence[Policy], *, admission: str | None = None, limit: Limit | None = None) -> Call:
        """The same accesses by other policies, under another admission or limit where one is given."""
        settings = self.settings if admission is None else replace(self.settings, admission=admission)
        caches = replace(self.caches, settings=settings)
        return replace(self, caches=caches, policies=tuple(policies), limit=self.limit if limit is None else limit)


def sized(
    trace: TraceLike, *, settings: Settings, on: RunsOn | None, expert_bytes: Sizes | None = None, needed_for: str = ""
) -> tuple[Trace, SizedModel | None]:
    """Read a trace and give it the sizes of its experts, with the model that they are of where it runs on a device.

    needed_for: what cannot do without sizes; a device always has some.
    """
    trace = known_sizes(as_trace(trace), expert_bytes, "" if on is not None else needed_for)
    if on is None:
        return trace, None
    check_timed(settings)
    return on.sized(trace)
