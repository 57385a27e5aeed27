"""Find a policy by name or file, and make it with its options."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from remoe_sim.util.errors import unknown
from remoe_sim.util.plugin_sources import is_ours, remember, sources_of
from remoe_sim.util.plugins import find_plugin, plugin_file

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def find_policy(text: str) -> Any:
    """A policy object, from its name, or the path of a Python file that defines one, and its options.

    `lfu-aged:half_life=64` is policy lfu-aged made with half_life=64; `./mine.py` is the policy in that file. Raises
    ValueError with all valid names, or the policy's options, if there is no such thing.
    """
    from remoe_sim.policy.base import Policy
    from remoe_sim.policy.guard import failed, files_of, wants_fast

    name, *options = text.split(":")
    if name.endswith(".py"):
        found = plugin_file(name, Policy, "StackPolicy or SlotPolicy")
    else:
        found = find_plugin("remoe_sim.policies", Policy, name)
    values = _options(found, name, options)
    try:
        if not is_ours(found.__module__):
            _set_bounds(found, not wants_fast())
        policy = found(**values)
    except ValueError:
        raise  # what it says about its options
    except Exception as error:
        raise failed(f"policy '{name}'", files_of(found), error) from error
    policy.fast = wants_fast()
    policy.label = str(found.name) + "".join(f":{option}" for option in options)
    return policy


def _set_bounds(found: Any, check: bool) -> None:
    """Let the kernels in the modules of somebody else's class be with or without bounds checks."""
    from remoe_sim.kernels.checked import set_bounds

    for name in dict.fromkeys(one.__module__ for one in found.__mro__):
        module = sys.modules.get(name)
        if module is not None and not is_ours(name) and getattr(module, "__file__", None):
            sources = sources_of(module)
            remember(sources)
            set_bounds((name, *sources.modules), check)


def _options(plugin: Any, name: str, given: list[str]) -> dict[str, Any]:
    """Keyword arguments from `key=value` texts, converted to the type of each default."""
    parameters = inspect.signature(plugin).parameters.values()
    known = {one.name: one.default for one in parameters if one.default is not one.empty}
    if missing := [one.name for one in parameters if one.name not in known and one.kind not in _ANY_NUMBER]:
        raise ValueError(f"policy '{name}' cannot be made: option '{missing[0]}' of its __init__ needs a default")
    values: dict[str, Any] = {}
    for option in given:
        key, _, value = option.partition("=")
        if key not in known:
            raise unknown(f"option of policy '{name}'", key, known or ["none"])
        values[key] = _converted(value, known[key], option, f"policy '{name}'")
    return values


def _converted(value: str, default: Any, option: str, whose: str) -> Any:
    """The value of an option in the type of its default; of a None the first of int, float and str that it can be."""
    if isinstance(default, bool):
        if value.lower() not in _WORDS:
            raise ValueError(f"option '{option}' of {whose} is not possible; give true or false")
        return _WORDS[value.lower()]
    for kind in (int, float, str) if default is None else (type(default),):
        if kind not in (int, float, str):
            raise ValueError(f"option '{option}' of {whose} cannot be given as text; its default is {default!r}")
        try:
            return kind(value)
        except ValueError:
            continue
    raise ValueError(
        f"option '{option}' of {whose} is not possible; {option.partition('=')[0]} takes {type(default).__name__}"
    )
