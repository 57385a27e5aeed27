"""How the package is laid out: who may import whom, and how large a file and the house may be.

Imports under TYPE_CHECKING and inside functions count. Packages are edges too where a file imports from one.
"""

import ast
from collections import defaultdict
from functools import cache

import pytest

from tests.support.layout import MAY_IMPORT, ROOT, edges, imported, modules, room

pytestmark = pytest.mark.once

FREE = ("", "__main__", "cli", "commands")  # the face, the command line
CONTRACTS = ("assembling", "importing")  # files that only repeat names, at the paths that documents show to users
MOST_FILES, MOST_LINES, MOST_LEVELS, MOST_BESIDE = 300, 400, 11, 5
MOST_ARGUMENTS = 12  # of a kernel
# Nothing imports these: they are found by listing, or run on a worker.
FOUND = ("commands.", "policies.", "traces.", "exports.", "figures.", "cli", "__main__", "assembling", "importing")
# One user each, in the same room, which would be too long with them, or loads them only when they are needed.
OWN_FILE = {
    "capture.llama", "capture.llama_run", "capture.loop_cache", "capture.weighing", "devices.mapped",
    "devices.measured_runs",
    "devices.probes", "devices.shares",
    "devices.terms", "studies.plan_mapped", "synthetic.targets",
    "finetune.objective", "finetune.running", "formats.array_axes", "formats.array_columns",
    "formats.join", "formats.refusal", "models.huggingface",
    "models.hub", "models.quantisation",
    "policy.slot", "reports.checklist", "reports.sweep_report", "reports.trace_report", "studies.predictors",
    "studies.sweep.cluster", "studies.sweep.worker", "synthetic.laws", "trace.views",
}  # fmt: skip


@cache
def loaded(name):
    """What a module imports as soon as it is loaded itself."""
    tree = ast.parse(modules()[name].read_text("utf-8"))
    tree.body = [
        one
        for one in tree.body
        if not isinstance(one, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(one, ast.If) and "TYPE_CHECKING" in ast.unparse(one.test))
    ]
    return sorted({module for module, _ in imported(tree) if module != name})


def test_all_imports_are_of_known_modules():
    assert {(name, module) for name in modules() for module in edges(name) if module not in modules()} == set()


def test_rooms_import_one_way():
    wrong = [
        f"{name} imports {module}"
        for name in modules()
        if room(name) not in (*FREE, *CONTRACTS)
        for module in edges(name)
        if room(module) != room(name) and room(module) not in MAY_IMPORT[room(name)]
        if (name, module) != ("studies.sweep.cluster", "")  # in a function that is sent to workers
    ]
    assert wrong == []


def test_the_table_has_no_circle():
    below = {one: set(others) - {one} for one, others in MAY_IMPORT.items()}
    while lowest := [one for one, others in below.items() if not others & below.keys()]:
        for one in lowest:
            del below[one]
    assert below == {}


def test_modules_import_one_way():
    assert levels()[1] == []


def test_chains_of_imports_are_short():
    found = levels(whole=False)[0]
    assert {name: level for name, level in found.items() if level > MOST_LEVELS} == {}


@cache
def levels(whole=True):
    """Per module how many modules its longest chain of imports has, and the circles. whole: imports in functions and
    under TYPE_CHECKING too, else only those that are made when it is loaded."""
    found, circles, running = {}, [], []

    def level(name):
        if name in running:
            circles.append(" > ".join([*running[running.index(name) :], name]))
            return 0
        if name not in found:
            running.append(name)
            found[name] = 1 + max(
                (level(one) for one in (edges if whole else loaded)(name) if room(one) not in FREE), default=0
            )
            running.pop()
        return found[name]

    for name in modules():
        if room(name) not in FREE:
            level(name)
    return found, circles


def test_files_are_short():
    lengths = {name: len(path.read_text("utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_kernels_take_few_arguments():
    taken = {
        f"{name}.{one.name}": len(one.args.posonlyargs + one.args.args + one.args.kwonlyargs)
        for name, path in modules().items()
        for one in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(one, ast.FunctionDef)
        and (room(name) == "kernels" or any("kernel" in ast.unparse(by) for by in one.decorator_list))
    }
    assert len(taken) > 100
    assert {name: count for name, count in taken.items() if count > MOST_ARGUMENTS} == {}


def test_few_files():
    own = [path for path in modules().values() if path.is_relative_to(ROOT / "remoe_sim")]
    assert len(own) <= MOST_FILES
    assert len([path for path in own if path.parent == ROOT / "remoe_sim"]) <= MOST_BESIDE


def test_a_file_has_several_users_or_a_public_function():
    users = {name: [one for one in modules() if name in edges(one)] for name in modules()}
    stub = ast.parse((ROOT / "remoe_sim" / "__init__.pyi").read_text("utf-8"))
    public = {node.module for node in stub.body if isinstance(node, ast.ImportFrom)}
    lonely = {
        name
        for name, by in users.items()
        if len(by) < 2
        and {room(one) for one in by} <= {room(name)}  # a user in another room may not take it in
        and name not in public
        and modules()[name].name != "__init__.py"
        and not name.startswith(FOUND)
    }
    assert lonely <= OWN_FILE


def test_a_class_name_is_defined_once():
    """So that a name in a message, a type hint or a search means one thing."""
    where = defaultdict(list)
    for name, path in modules().items():
        if path.is_relative_to(ROOT / "remoe_sim"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    where[node.name].append(name)
    assert {name: places for name, places in where.items() if len(places) > 1} == {}
