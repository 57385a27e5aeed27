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

from remoe_sim.util.errors import unknown


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
    from remoe_sim.util.plugin_sources import PolicyError, place_of

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


def plugin_file(path: str, base: type, bases: str) -> Any:
    """The plug-in that a file of the user's defines; `bases`: the names of the classes that it may derive from."""
    from remoe_sim.util.input_files import read_bytes
    from remoe_sim.util.plugin_sources import forget_changed

    kind = _kind(base)
    try:
        read_bytes(path, kind)
    except OSError as error:
        why = (
            "there is no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
        )
        raise ValueError(f"{kind} '{path}': {why}; give the path of a Python file that defines a {kind}") from None
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
        raise not_loaded(f"{kind} '{path}' cannot be loaded", str(spec.origin), error) from error
    finally:
        sys.dont_write_bytecode = keeps
    plugin = plugin_of(module, base)
    if plugin is None:
        raise ValueError(f"{kind} '{path}' defines no {kind}; derive a class with a name from {bases}")
    return plugin


def _name(plugin: Any) -> str:
    return str(plugin.name)


def _kind(base: type) -> str:
    """What messages call the plug-ins of a base class: its `kind`, such as "policy"."""
    return str(getattr(base, "kind", base.__name__.lower()))
