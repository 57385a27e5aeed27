"""remoe-sim: replay recorded expert routing of Mixture-of-Experts models through a cache and a hardware model.

Every command of `remoe-sim` has a function of the same name here. Nothing heavy is imported until it is used; the stub
next to this file lists all names.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import lazy_loader


class _NextToSources:
    """Finds plug-ins in a folder of sources that is not installed, where they are next to this package."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in ("remoe_sim.policies", "remoe_sim.traces"):
            return None
        folder = Path(__file__).parents[1] / name.rpartition(".")[2]
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


sys.meta_path.append(_NextToSources)

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _names if name not in ("capture", "figures", "finetune", "progress")]
