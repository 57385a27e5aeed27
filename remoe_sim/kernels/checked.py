"""Compiled code of other people with bounds checks: copies of functions that call only functions that are checked, too.

A kernel of ours that such a function calls is copied and checked as well, for a wrong index may come from its caller.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from numba.core.dispatcher import Dispatcher

from remoe_sim.kernels.compile import with_checks
from remoe_sim.util.plugin_sources import is_ours

_COPIES: dict[Any, Any] = {}  # of functions, kernels and modules that are ours
_THEIRS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # of others'
_ORIGINALS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # of checked kernels and modules


def checked_function(function: FunctionType) -> FunctionType:
    """A copy of a function that calls checked kernels."""
    copies = _copies_for(function.__module__)
    if function not in copies:
        cells = tuple(CellType() for _ in function.__closure__ or ())
        names = function.__globals__.copy()
        made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells or None)
        made.__module__, made.__qualname__ = function.__module__, function.__qualname__
        made.__kwdefaults__ = function.__kwdefaults__
        copies[function] = made  # before what it calls, which may be itself
        for name in _names(function.__code__):
            if name in names:
                names[name] = _checked(names[name])
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            cell.cell_contents = _checked(old.cell_contents)
    made = copies[function]
    assert isinstance(made, FunctionType)
    return made


def checked_kernel(kernel: Any) -> Any:
    """A kernel with bounds checks, which does the same."""
    if kernel in _ORIGINALS:
        return kernel
    copies = _copies_for(kernel.py_func.__module__)
    if kernel not in copies:
        made = with_checks(kernel, checked_function(kernel.py_func))
        copies[kernel] = made
        _ORIGINALS[made] = kernel
    return copies[kernel]


def set_bounds(modules: Iterable[str], check: bool) -> None:
    """Let the kernels that plug-ins' own modules name be checked ones, or those without checks again."""
    for name in modules:
        module = sys.modules.get(name)
        for key, value in [] if module is None or is_ours(name) else list(vars(module).items()):
            if isinstance(value, Dispatcher | ModuleType):
                setattr(module, key, _checked(value) if check else _ORIGINALS.get(value, value))


def _copies_for(module: str) -> Any:
    return _COPIES if is_ours(module) else _THEIRS


def _checked(value: Any) -> Any:
    if isinstance(value, Dispatcher):
        return checked_kernel(value)
    if not isinstance(value, ModuleType) or not is_ours(value.__name__) or value in _ORIGINALS:
        return value
    if value not in _COPIES and any(isinstance(one, Dispatcher) for one in vars(value).values()):
        copy = _COPIES[value] = ModuleType(value.__name__)
        _ORIGINALS[copy] = value
        for key, one in vars(value).items():
            vars(copy)[key] = one if isinstance(one, ModuleType) else _checked(one)
    return _COPIES.get(value, value)


def _names(code: CodeType) -> set[str]:
    """The names that code and the functions in it may look up."""
    found = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _names(inner)
    return found
