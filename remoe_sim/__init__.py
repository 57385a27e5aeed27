"""remoe-sim: replay recorded expert routing of Mixture-of-Experts models through a cache and a hardware model.

Every command of `remoe-sim` has a function of the same name here. Nothing heavy is imported until it is used; the stub
next to this file lists all names.
"""

from pathlib import Path

import lazy_loader

if not (Path(__file__).parent / "traces").is_dir():  # in the folder of the sources, where plug-ins are next to it
    __path__.append(str(Path(__file__).parents[1]))

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _names if name not in ("capture", "figures", "finetune", "progress")]
