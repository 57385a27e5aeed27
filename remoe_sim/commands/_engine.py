"""`--engine` as the profile of a cache: what the user did not give is what the engine does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from remoe_sim.commands._options import note_all

if TYPE_CHECKING:
    from remoe_sim.cache.engine_cache import EngineCache

F = TypeVar("F", bound=Callable[..., Any])


def engine_option(function: F) -> F:
    """--engine of a command that models no times."""
    return click.option(
        "--engine", metavar="NAME", help="Cache as this engine does: a name of 'list engines', or a card of your own."
    )(function)


def engine_profile(arguments: dict[str, Any]) -> EngineCache | None:
    """Set scope, policy and admission in `arguments` where the user gave none; returns None without --engine.

    --engine stays among the arguments only where a device asks for the engine of its times.
    """
    if arguments.get("engine") is None:
        if "device" not in arguments:
            arguments.pop("engine", None)
        return None
    from remoe_sim.cache.engine_cache import engine_cache

    profile = engine_cache(arguments["engine"])
    arguments |= profile.besides(arguments, [name for name in arguments if given_by_user(name)])
    if "device" not in arguments:
        del arguments["engine"]
    elif arguments["device"] is None:
        arguments["engine"] = None
    return profile


def given_by_user(name: str) -> bool:
    """Whether an option of the running command is the user's own, and no default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def engine_json(profile: EngineCache | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """The key `engine_cache` of a JSON answer, only where an engine was named."""
    return {} if profile is None else {"engine_cache": profile.to_dict(arguments)}


def say_engine(profile: EngineCache | None, arguments: dict[str, Any], as_json: bool) -> None:
    """The line about the engine's cache, on stdout above the tables, and what a replay does not do of it, as notes."""
    if profile is None:
        return
    if not as_json:
        click.echo(profile.sentence(arguments))
    note_all(profile.notes_of(arguments))
