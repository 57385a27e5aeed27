"""Traces drawn by chance."""
