"""One cache or one tier: settings, set-up of a call, replay, curves and counts."""
