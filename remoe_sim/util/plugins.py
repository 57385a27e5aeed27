"""Plug-ins are found, not listed: every file of a package holds one class, and other distributions add theirs
through an entry point whose group bears the package's name (`remoe_sim.policies`, `remoe_sim.traces`)."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from remoe_sim.errors import unknown
from remoe_sim.input_files import read_bytes
from remoe_sim.plugin_sources import forget_changed, is_ours, remember, sources_of


def plugin_of(module: ModuleType, base: type) -> Any:
    """The class that a module defines as a plug-in: derived from `base` and with a `name`; None if there is none.

    Raises ValueError if there are several.
    """
    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, base) and value.__module__ == module.__name__ and "name" in vars(value)
    ]
    if len(found) > 1:
        classes = " and ".join(value.__name__ for value in found)
        raise ValueError(
            f"{module.__file__} has more than one {_kind(base)} with a name ({classes}); put each in a file of its own"
        )
    return found[0] if found else None


@cache
def plugins(package: str, base: Any) -> dict[str, Any]:
    """All plug-ins of a package by name, in the order of their names; imports every one of them."""
    found: dict[str, Any] = {}
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        plugin = plugin_of(importlib.import_module(f"{package}.{module.name}"), base)
        if plugin is not None:
            _add(found, plugin, base)
    for entry in entry_points(group=package):
        try:
            plugin = entry.load()
        except Exception as error:
            what = f"plug-in '{entry.name}' ({entry.value}) cannot be loaded"
            raise not_loaded(what, "", error, "; mend or uninstall the package that brings it") from error
        _add(found, plugin, base)
    return dict(sorted(found.items()))


def not_loaded(what: str, file: str, error: Exception, then: str = "") -> ValueError:
    """Why a plug-in cannot be imported, and in which line."""
    from remoe_sim.policy_guard import PolicyError, place_of

    place = None if isinstance(error, SyntaxError) else place_of(error, {file})  # that says it itself
    where = f" ({place[0]}, line {place[1]})" if place else ""
    return PolicyError(f"{what}: {type(error).__name__}: {error}{where}{then}")


def _add(found: dict[str, Any], plugin: Any, base: type) -> None:
    """Add a plug-in under its name; ValueError if another one has it."""
    name = _name(plugin)
    other = found.setdefault(name, plugin)
    if other is not plugin:
        raise ValueError(
            f"{_kind(base)} '{name}' is in {_file(other)} and in {_file(plugin)}; rename one, or uninstall the package "
            "that brings it"
        )


def _file(plugin: Any) -> str:
    """Where a plug-in comes from."""
    return str(getattr(sys.modules.get(plugin.__module__), "__file__", None) or plugin.__module__)


def find_plugin(package: str, base: type, name: str) -> Any:
    """The plug-in called `name`; ValueError with all valid names if there is none.

    A file called like the plug-in (with `_` for `-`) is imported alone.
    """
    stem = name.replace("-", "_")
    if stem.isidentifier() and stem in {
        m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__)
    }:
        plugin = plugin_of(importlib.import_module(f"{package}.{stem}"), base)
        if plugin is not None and _name(plugin) == name:
            return plugin
    known: dict[str, Any] = plugins(package, base)
    if name not in known:
        raise unknown(_kind(base), name, known)
    return known[name]


def _name(plugin: Any) -> str:
    return str(plugin.name)


def _kind(base: type) -> str:
    """What messages call the plug-ins of a base class: its `kind`, such as "policy"."""
    return str(getattr(base, "kind", base.__name__.lower()))


def find_policy(text: str) -> Any:
    """A policy object, from its name, or the path of a Python file that defines one, and its options.

    `lfu-aged:half_life=64` is policy lfu-aged made with half_life=64; `./mine.py` is the policy in that file. Raises
    ValueError with all valid names, or the policy's options, if there is no such thing.
    """
    from remoe_sim.policy import Policy
    from remoe_sim.policy_guard import failed, files_of, wants_fast

    name, *options = text.split(":")
    found = _from_file(name, Policy) if name.endswith(".py") else find_plugin("remoe_sim.policies", Policy, name)
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
    from remoe_sim.checked_kernels import set_bounds

    for name in dict.fromkeys(one.__module__ for one in found.__mro__):
        module = sys.modules.get(name)
        if module is not None and not is_ours(name) and getattr(module, "__file__", None):
            sources = sources_of(module)
            remember(sources)
            set_bounds((name, *sources.modules), check)


def _from_file(path: str, base: type) -> Any:
    """The plug-in that a file of the user's defines."""
    try:
        read_bytes(path, "policy")
    except OSError as error:
        why = (
            "there is no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
        )
        raise ValueError(f"policy '{path}': {why}; give the path of a Python file that defines a policy") from None
    name = "remoe_sim_user_" + hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    forget_changed(Path(path))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    keeps, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # which is believed within a second of a change
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise not_loaded(f"policy '{path}' cannot be loaded", str(spec.origin), error) from error
    finally:
        sys.dont_write_bytecode = keeps
    plugin = plugin_of(module, base)
    if plugin is None:
        raise ValueError(
            f"policy '{path}' defines no policy; derive a class with a name from StackPolicy or SlotPolicy"
        )
    return plugin


_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


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
