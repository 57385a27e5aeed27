"""Trace formats, one file each, found by listing this package (installed as `remoe_sim.traces`)."""
