"""Devices: cards, costs, the timeline, estimates, measurements and calibration."""
