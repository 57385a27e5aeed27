"""remoe-sim: replay recorded expert routing of Mixture-of-Experts models through a cache and a hardware model.

Every command of `remoe-sim` has a function of the same name here. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "TraceError": "errors",
    "Trace": "trace",
    "Model": "trace",
    "Decisions": "trace",
    "InMemory": "trace",
    "read_trace": "trace_reader",
    "write_trace": "trace_writer",
    "import_trace": "importing",
    "export": "exporting",
    "replay": "engine",
    "curve": "curves",
    "tiers": "tiering",
    "prefetch": "prefetching",
    "reuse": "metrics",
    "info": "summary",
    "synth": "synthesis",
    "batch": "scheduling",
    "batches": "batch_reports",
    "reroute": "rerouting",
    "split": "splitting",
    "verdict": "verdicts",
    "sweep": "sweeping",
    "plot": "plotting",
    "compare": "comparing",
    "estimate": "estimating",
    "calibrate": "calibrating",
    "Device": "device_cards",
    "Link": "links",
    "device": "device_cards",
    "model": "model_cards",
    "SizedModel": "model_sizes",
    "measure": "measuring",
    "plan": "planning",
    "doctor": "checkup",
    "report": "reporting",
    "verify": "verifying",
    "limit_memory": "memory_room",
}
_PACKAGES = ("capture", "figures", "finetune")
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from remoe_sim import capture as capture
    from remoe_sim import figures as figures
    from remoe_sim import finetune as finetune
    from remoe_sim.batch_reports import batches as batches
    from remoe_sim.calibrating import calibrate as calibrate
    from remoe_sim.checkup import doctor as doctor
    from remoe_sim.comparing import compare as compare
    from remoe_sim.curves import curve as curve
    from remoe_sim.device_cards import Device as Device
    from remoe_sim.device_cards import device as device
    from remoe_sim.engine import replay as replay
    from remoe_sim.errors import TraceError as TraceError
    from remoe_sim.estimating import estimate as estimate
    from remoe_sim.exporting import export as export
    from remoe_sim.importing import import_trace as import_trace
    from remoe_sim.links import Link as Link
    from remoe_sim.measuring import measure as measure
    from remoe_sim.memory_room import limit_memory as limit_memory
    from remoe_sim.metrics import reuse as reuse
    from remoe_sim.model_cards import model as model
    from remoe_sim.model_sizes import SizedModel as SizedModel
    from remoe_sim.planning import plan as plan
    from remoe_sim.plotting import plot as plot
    from remoe_sim.prefetching import prefetch as prefetch
    from remoe_sim.reporting import report as report
    from remoe_sim.rerouting import reroute as reroute
    from remoe_sim.scheduling import batch as batch
    from remoe_sim.splitting import split as split
    from remoe_sim.summary import info as info
    from remoe_sim.sweeping import sweep as sweep
    from remoe_sim.synthesis import synth as synth
    from remoe_sim.tiering import tiers as tiers
    from remoe_sim.trace import Decisions as Decisions
    from remoe_sim.trace import InMemory as InMemory
    from remoe_sim.trace import Model as Model
    from remoe_sim.trace import Trace as Trace
    from remoe_sim.trace_reader import read_trace as read_trace
    from remoe_sim.trace_writer import write_trace as write_trace
    from remoe_sim.verdicts import verdict as verdict
    from remoe_sim.verifying import verify as verify


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:  # `remoe_sim.capture.record`, `remoe_sim.figures.hit_rate`
        return import_module(f"remoe_sim.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'remoe_sim' has no attribute {name!r}")
    return getattr(import_module(f"remoe_sim.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
