"""Compiled loops: arrays and integers in, arrays out. They know no names, files or units.

Copying a slice into a slice makes the compiler build error messages for shapes, two seconds each: loops copy here.
"""
