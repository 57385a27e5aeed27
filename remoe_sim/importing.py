"""The base class of trace formats of your own: `from remoe_sim.importing import TraceFormat`."""

from remoe_sim.formats.format import TraceFormat, import_trace

__all__ = ["TraceFormat", "import_trace"]
