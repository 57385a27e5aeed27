"""remoe-sim: replay recorded expert routing of Mixture-of-Experts models through a cache and a hardware model.

Every command of `remoe-sim` has a function of the same name here. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from remoe_sim.util.version import __version__ as __version__

_HOMES = {
    "TraceError": "util.errors",
    "Trace": "trace.trace",
    "Model": "trace.trace",
    "Decisions": "trace.trace",
    "InMemory": "trace.trace",
    "read_trace": "trace.reader",
    "write_trace": "trace.writer",
    "import_trace": "formats.format",
    "export": "formats.format",
    "replay": "cache.replay",
    "curve": "cache.curve",
    "tiers": "studies.tiers",
    "prefetch": "studies.prefetch",
    "reuse": "trace.metrics",
    "info": "trace.info",
    "synth": "synthetic.synth",
    "batch": "trace.schedule",
    "batches": "studies.batches",
    "reroute": "studies.reroute",
    "split": "studies.split",
    "verdict": "studies.verdict",
    "sweep": "studies.sweep.sweep",
    "plot": "figures._plot",
    "compare": "studies.compare",
    "estimate": "devices.estimate",
    "calibrate": "devices.calibrate",
    "Device": "devices.device",
    "Link": "devices.device",
    "device": "devices.device",
    "model": "models.model",
    "SizedModel": "models.sizes",
    "measure": "devices.measure",
    "plan": "studies.plan",
    "doctor": "installation",
    "report": "reports.report",
    "verify": "studies.sweep.verify",
    "limit_memory": "util.memory",
}
_PACKAGES = {"capture": "capture", "figures": "figures", "finetune": "finetune", "progress": "util.progress"}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from remoe_sim import capture as capture
    from remoe_sim import figures as figures
    from remoe_sim import finetune as finetune
    from remoe_sim.cache.curve import curve as curve
    from remoe_sim.cache.replay import replay as replay
    from remoe_sim.devices.calibrate import calibrate as calibrate
    from remoe_sim.devices.device import Device as Device
    from remoe_sim.devices.device import Link as Link
    from remoe_sim.devices.device import device as device
    from remoe_sim.devices.estimate import estimate as estimate
    from remoe_sim.devices.measure import measure as measure
    from remoe_sim.figures._plot import plot as plot
    from remoe_sim.formats.format import export as export
    from remoe_sim.formats.format import import_trace as import_trace
    from remoe_sim.installation import doctor as doctor
    from remoe_sim.models.model import model as model
    from remoe_sim.models.sizes import SizedModel as SizedModel
    from remoe_sim.reports.report import report as report
    from remoe_sim.studies.batches import batches as batches
    from remoe_sim.studies.compare import compare as compare
    from remoe_sim.studies.plan import plan as plan
    from remoe_sim.studies.prefetch import prefetch as prefetch
    from remoe_sim.studies.reroute import reroute as reroute
    from remoe_sim.studies.split import split as split
    from remoe_sim.studies.sweep.sweep import sweep as sweep
    from remoe_sim.studies.sweep.verify import verify as verify
    from remoe_sim.studies.tiers import tiers as tiers
    from remoe_sim.studies.verdict import verdict as verdict
    from remoe_sim.synthetic.synth import synth as synth
    from remoe_sim.trace.info import info as info
    from remoe_sim.trace.metrics import reuse as reuse
    from remoe_sim.trace.reader import read_trace as read_trace
    from remoe_sim.trace.schedule import batch as batch
    from remoe_sim.trace.trace import Decisions as Decisions
    from remoe_sim.trace.trace import InMemory as InMemory
    from remoe_sim.trace.trace import Model as Model
    from remoe_sim.trace.trace import Trace as Trace
    from remoe_sim.trace.writer import write_trace as write_trace
    from remoe_sim.util import progress as progress
    from remoe_sim.util.errors import TraceError as TraceError
    from remoe_sim.util.memory import limit_memory as limit_memory


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:  # `remoe_sim.capture.record`, `remoe_sim.figures.hit_rate`
        return import_module(f"remoe_sim.{_PACKAGES[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'remoe_sim' has no attribute {name!r}")
    return getattr(import_module(f"remoe_sim.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
