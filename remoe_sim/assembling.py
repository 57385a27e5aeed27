"""Parts for trace formats of your own: `from remoe_sim.assembling import Records, Slots, assemble`."""

from remoe_sim.formats.assemble import Records, Slots, assemble

__all__ = ["Records", "Slots", "assemble"]
