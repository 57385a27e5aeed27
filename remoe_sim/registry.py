"""Plug-ins are found, not listed: every file of a package holds one class, and other distributions add theirs
through an entry point whose group bears the package's name (`remoe_sim.policies`, `remoe_sim.traces`)."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from remoe_sim.errors import unknown


def plugin_of(module: ModuleType, base: type) -> Any:
    """The class that a module defines as a plug-in: derived from `base` and with a `name`; None if there is none."""
    for _, value in inspect.getmembers(module, inspect.isclass):
        if issubclass(value, base) and value.__module__ == module.__name__ and "name" in vars(value):
            return value
    return None


@cache
def plugins(package: str, base: Any) -> dict[str, Any]:
    """All plug-ins of a package by name, in the order of their names; imports every one of them."""
    found: dict[str, Any] = {}
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        plugin = plugin_of(importlib.import_module(f"{package}.{module.name}"), base)
        if plugin is not None:
            found[_name(plugin)] = plugin
    for entry in entry_points(group=package):
        plugin = entry.load()
        found[_name(plugin)] = plugin
    return dict(sorted(found.items()))


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


def find_policy(name: str) -> Any:
    """A policy object by name; ValueError with all valid names if there is none."""
    from remoe_sim.policy import Policy

    return find_plugin("remoe_sim.policies", Policy, name)()
