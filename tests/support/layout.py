"""The rooms of the package, who may import whom, and who imports whom."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"remoe_sim": ROOT / "remoe_sim", "remoe_sim.policies": ROOT / "policies", "remoe_sim.traces": ROOT / "traces"}
BELOW = ["util", "kernels", "models", "trace", "formats", "synthetic", "policy", "devices", "cache"]
STUDIES = [*BELOW, "studies"]
MAY_IMPORT = {
    "util": [],
    "kernels": ["util"],
    "models": ["util"],
    "trace": ["util", "kernels"],
    "formats": ["util", "models", "trace"],
    "synthetic": ["util", "kernels", "models", "trace"],
    "policy": ["util", "kernels", "trace"],
    "devices": ["util", "kernels", "models", "trace"],
    "cache": BELOW,
    "policies": ["policy", "kernels"],
    "traces": ["util", "kernels", "trace", "formats"],
    "studies": BELOW,
    "figures": STUDIES,
    "reports": [*STUDIES, "figures"],
    "capture": ["util", "kernels", "models", "trace", "formats", "policy"],
    "finetune": ["util", "models", "trace", "formats", "capture"],
}


@cache
def modules():
    """Paths of all modules by their dotted name below remoe_sim."""
    found = {}
    for place, folder in PLACES.items():
        for path in sorted(folder.rglob("*.py")):
            name = ".".join([place, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__")
            found[name.removeprefix("remoe_sim").removeprefix(".")] = path
    return found


@cache
def imports():
    """Per module what it imports of the package, in functions and under TYPE_CHECKING too."""
    return {name: list(imported(ast.parse(path.read_text("utf-8")))) for name, path in modules().items()}


def imported(tree):
    """What a module imports of the package: (module, name or None) pairs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                if one.name.split(".")[0] == "remoe_sim":
                    yield one.name.removeprefix("remoe_sim").removeprefix("."), None
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "remoe_sim":
            base = node.module.removeprefix("remoe_sim").removeprefix(".")
            for one in node.names:
                inner = f"{base}.{one.name}".lstrip(".")
                yield (inner, None) if inner in modules() else (base, one.name)


def edges(name):
    """The modules that a module imports, or imports names from."""
    return sorted({module for module, _ in imports()[name] if module != name})


def room(name):
    """The room of a module: its folder in `remoe_sim`, `policies` or `traces`; "" for the face."""
    return name.split(".")[0]
