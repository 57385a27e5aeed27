"""Sweeps: every combination of settings, here or on a cluster, kept in one file."""
