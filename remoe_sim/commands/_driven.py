"""Options of the commands that load and evict themselves: `tiers` and `prefetch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from remoe_sim.units import decimal

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--admission",
        default="mandatory",
        show_default=True,
        metavar="mandatory|bypass",
        help="Whether what a step needs must enter, or may be computed from a workspace.",
    ),
    click.option(
        "--reset", default="never", show_default=True, metavar="never|request", help="When everything is emptied."
    ),
    click.option(
        "--phase", default="all", show_default=True, metavar="all|decode|prefill", help="Which tokens are replayed."
    ),
    click.option(
        "--warmup",
        default="0",
        metavar="N",
        help="Replay the first N decode tokens (of each request when reset) uncounted.",
    ),
    click.option(
        "--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer, if the trace has none."
    ),
)


def driven_options(function: F) -> F:
    """The options that say how a trace is replayed."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def sized(amount: float | None, factor: int) -> str:
    """An amount of bytes in units of `factor`."""
    return "unknown" if amount is None else decimal(amount / factor, 1)
