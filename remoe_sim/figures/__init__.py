"""One file per figure, each with one function that takes rows (or a trace, or a report) and returns a Figure.

`remoe_sim.figures.hit_rate(frame)`; `names()` has them all. Files are found, not listed: what a file without a leading
underscore defines with `@figure` is a figure, and `remoe-sim plot` draws it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any


def functions() -> dict[str, Callable[..., Any]]:
    """The function of every figure by its name, in the order of names."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            for name, value in vars(import_module(f"{__name__}.{module.name}")).items():
                if getattr(value, "pages", None) is not None and value.__module__ == f"{__name__}.{module.name}":
                    found[name] = value
    return dict(sorted(found.items()))


def names() -> list[str]:
    """The names of all figures, as `remoe-sim plot` calls them."""
    return [name.replace("_", "-") for name in functions()]


def __getattr__(name: str) -> Any:
    found = {} if name.startswith("__") else functions()
    if name not in found:
        raise AttributeError(f"module 'remoe_sim.figures' has no attribute {name!r}; figures are {', '.join(found)}")
    return found[name]


def __dir__() -> list[str]:
    return [*functions(), "functions", "names"]
