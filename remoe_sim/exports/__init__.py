"""Formats that `remoe-sim export` writes, one file each; nothing imports one by name."""
