"""The sources of a plug-in: its own file and every module that it imports from outside the installed packages."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType

_PLACE = re.compile(r'File "([^"]+)", line (\d+)')  # in what the compiler says

_BY_NAME = {"import_module", "__import__", "exec", "eval", "exec_module", "run_path", "run_module", "load_module"}
_SEEN: dict[str, str] = {}  # modules that plug-ins import, and the digest of the files that they were made of


def is_ours(module: str) -> bool:
    """Whether a module is one of this package."""
    return module == "remoe_sim" or module.startswith("remoe_sim.")


@cache
def _installed() -> tuple[Path, ...]:
    """Folders of Python's own modules and of installed packages, and ours."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    import site

    import numpy as np

    folders = [sysconfig.get_path(name) for name in names] + [*site.getsitepackages(), site.getusersitepackages()]
    folders += [
        str(Path(np.__file__).parents[1]),
        str(Path(__file__).parents[1]),
        *import_module("remoe_sim.policies").__path__,
    ]
    return tuple(dict.fromkeys(Path(folder).resolve() for folder in folders if folder))


@cache
def is_installed(file: str) -> bool:
    """Whether a file is of Python, of an installed package or of this one."""
    path = Path(file).resolve()
    return any(path.is_relative_to(folder) for folder in _installed())


@dataclass(frozen=True)
class Sources:
    """digest: of the plug-in's own file and of all that it imports from outside the installed packages; modules: their
    names; unknown: where it imports something that cannot be told from the text, as `file, line n`."""

    digest: str
    modules: tuple[str, ...]
    unknown: tuple[str, ...]


def sources_of(module: ModuleType) -> Sources:
    """The sources of a module that is loaded; ones in the same installed package as itself are covered, too."""
    own = Path(str(module.__file__))
    package = module.__name__.partition(".")[0] if is_installed(str(own)) else None
    content, unknown = {"": own.read_bytes()}, list[str]()
    waiting = [("", own, str(module.__package__ or ""))]
    while waiting:
        name, file, parent = waiting.pop()
        if file.suffix not in (".py", ".pyw"):
            continue  # compiled: its bytes are all there is
        for imported in _imports(file, content[name], parent, unknown):
            spec = None if imported in content else _spec(imported)
            place = _file(spec, imported, package)
            if spec is not None and place is not None:
                content[imported] = place.read_bytes()
                is_package = spec.submodule_search_locations is not None
                waiting.append((imported, place, imported if is_package else imported.rpartition(".")[0]))
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content[name]).digest())
    return Sources(digest.hexdigest()[:16], tuple(sorted(content)[1:]), tuple(unknown))


def _file(spec: ModuleSpec | None, name: str, package: str | None) -> Path | None:
    """The file of a module that is to be covered."""
    if spec is None or spec.origin is None or not Path(spec.origin).is_file() or is_ours(name):
        return None
    covered = not is_installed(spec.origin) or (package is not None and name.partition(".")[0] == package)
    return Path(spec.origin) if covered else None


def _spec(name: str) -> ModuleSpec | None:
    """Where a module comes from; None if it is not there."""
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__spec__", None) is not None:
        return loaded.__spec__
    top = name.partition(".")[0]
    if top != name and not _is_local(_spec(top)):
        return None  # to look into a package is to import it
    try:
        return importlib.util.find_spec(name)
    except Exception:  # whatever the package of a module raises; it is not there then
        return None


def _is_local(spec: ModuleSpec | None) -> bool:
    """Whether a module is outside the installed packages."""
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return any(Path(place).exists() and not is_installed(place) for place in places)


def _imports(file: Path, content: bytes, package: str, unknown: list[str]) -> set[str]:
    """The absolute names of what a file imports, anywhere in it; of `from a import b` also a.b, a module perhaps."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        unknown.append(f"{file.name}, line 1")
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")}
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _BY_NAME:
                unknown.append(f"{file.name}, line {node.lineno}")
    parents = {name[:at] for name in found for at in range(len(name)) if name[at] == "."}
    return {name for name in found | parents if name}


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def forget_changed(path: Path) -> None:
    """Drop modules that the plug-in in this file imports and whose files have changed since they were imported for a
    plug-in, so that they are imported again with it."""
    module = ModuleType("remoe_sim_asked")
    module.__file__, module.__package__ = str(path), ""
    try:
        names = sources_of(module).modules
    except OSError:
        return
    changed = {name for name in names if name in sys.modules and _SEEN.get(name) not in (None, _digest(name))}
    if changed:
        for name in names:  # those that import a changed one would keep the old
            if _SEEN.pop(name, None) is not None:
                sys.modules.pop(name, None)
                parent, _, leaf = name.rpartition(".")
                vars(sys.modules.get(parent, module)).pop(leaf, None)


def remember(sources: Sources) -> None:
    """Keep in mind of which files the modules that a plug-in imports were made, or will be when it imports them."""
    for name in sources.modules:
        if name not in _SEEN or name not in sys.modules:
            _SEEN[name] = _digest(name)


def _digest(name: str) -> str:
    spec = _spec(name)
    file = Path(str(spec.origin)) if spec is not None else Path()
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


class PolicyError(ValueError):
    """A policy of somebody else raised an exception, which is the cause; the message is one sentence."""


def place_of(error: BaseException, files: set[str]) -> tuple[str, int] | None:
    """The file and line that an error comes from: the innermost in these files, or in others that are not installed."""
    found = None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if _is_theirs(file, files):
            found = file, trace.tb_lineno
        trace = trace.tb_next
    if found is None:
        told = [(str(Path(file).resolve()), int(line)) for file, line in _PLACE.findall(str(error))]
        own = {str(Path(file).resolve()) for file in files}
        found = next((one for one in told if one[0] in own), None)
        found = found or next((one for one in told if _is_theirs(one[0], own)), None)
    return found


def _is_theirs(file: str, files: set[str]) -> bool:
    return file in files or not (file.startswith("<") or is_installed(file))
