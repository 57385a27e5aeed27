"""A small trace that has everything that a trace file can hold."""

import numpy as np

from remoe_sim import Decisions, InMemory, Model, Trace


def small(**changes):
    """Two layers of different k and E, a null decision, a null slot, weights and probabilities."""
    valid = np.array([[True, True], [False, False], [True, False]])
    first = Decisions(np.array([[0, 65535], [0, 0], [3, 0]], np.uint16), valid, np.array([True, False, True]))
    second = Decisions(np.array([[1], [0], [1]], np.uint16))
    weights = [np.array([[0.6, 0.4], [0, 0], [np.nan, 0]], np.float32), None]
    probs = [None, np.array([[0.25, 0.75], [1, 0], [0, 1]], np.float16)]
    parts = {
        "request": np.array([0, 0, 7], np.int32),
        "position": np.array([0, 1, 0], np.int32),
        "step": np.array([0, 0, 1], np.int32),
        "phase": np.array([0, 0, 1], np.uint8),
        "token_id": np.array([5, 6, 7], np.int32),
        "layer_numbers": (3, 120),
        "model": Model((65536, 2), (2, 1), "m", 121, (100, 30), (7, 8), "q4"),
        "source": InMemory([first, second], weights, probs),
        "origin": {"format": "by hand"},
        "notes": "made up",
    }
    return Trace(**(parts | changes))
