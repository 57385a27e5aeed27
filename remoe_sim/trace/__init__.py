"""The trace: schema, reader, writer, layers, accesses, schedule and statistics."""

from remoe_sim.trace.trace import DECODE, PHASES, PREFILL, Decisions, InMemory, Model, Trace

__all__ = ["DECODE", "PHASES", "PREFILL", "Decisions", "InMemory", "Model", "Trace"]
