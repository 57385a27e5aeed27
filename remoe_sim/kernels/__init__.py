"""Compiled loops: arrays and integers in, arrays out. They know no names, files or units."""
