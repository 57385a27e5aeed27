"""What knows nothing about experts: errors, units, files, remote paths, progress, threads, plug-ins, cards, display."""
