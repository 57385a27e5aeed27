"""What knows nothing about experts: errors, units, files, remote paths, progress, threads, plug-ins, cards, display."""

from remoe_sim.util import progress as progress
