"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_REPLAY = (
    click.option("--policy", default="lru,lfu,belady", show_default=True, help="Policies, separated by commas."),
    click.option(
        "--scope", default="layer", show_default=True, metavar="layer|global", help="A cache per layer, or one for all."
    ),
    click.option(
        "--admission",
        default="mandatory",
        show_default=True,
        metavar="mandatory|bypass",
        help="Whether what a step needs must enter the cache, or may be computed from a workspace.",
    ),
    click.option(
        "--order",
        default="set",
        show_default=True,
        metavar="set|sequential",
        help="All distinct experts of a step at once, or every slot as an access of its own.",
    ),
    click.option(
        "--reset", default="never", show_default=True, metavar="never|request", help="When the cache is emptied."
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
    click.option("--train", metavar="TRACE", help="What policies such as static learn from."),
    click.option("--preload", metavar="TRACE", help="Start with the most used experts of another trace."),
    click.option(
        "--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer, if the trace has none."
    ),
)


def replay_options(function: F) -> F:
    """The options that say how a trace is replayed, in the order of --help."""
    for option in reversed(_REPLAY):
        function = option(function)
    return function


def print_json(value: Any) -> None:
    """JSON on stdout; a number that JSON has no word for is a defect."""
    import json

    click.echo(json.dumps(value, indent=2, allow_nan=False))


def note(sentence: str) -> None:
    """A remark on stderr that is no error."""
    click.echo(f"remoe-sim: {sentence}", err=True)
