"""Policies of a user, and a shell to use them in."""

import os
import subprocess
import sys

FEWEST_HITS = """from remoe_sim.policy import SlotPolicy

class FewestHits(SlotPolicy):
    name = "fewest-hits"

    def setup(self, limit, sizes):
        self.hits = {}  # resident -> its hits, the oldest first
    def hit(self, entry):
        self.hits[entry] += 1
    def insert(self, entry):
        self.hits[entry] = 0
    def victim(self, protected):
        free = [entry for entry in self.hits if not protected[entry]]
        worst = min(free, key=self.hits.get, default=-1)
        self.hits.pop(worst, None)
        return worst
"""

FAVOURITE = """import numpy as np

from remoe_sim.policy import StackPolicy


class Favourite(StackPolicy):
    name = "favourite"
    summary = "far from an id goes first"

    def __init__(self, id: int = 0, power: float = 1.0):
        self.id, self.power = id, power

    def keys(self, stream):
        print("one pass")
        return np.abs(stream.entries.astype(float) - self.id) ** self.power
"""


def shell(*arguments, cwd=None, path=None):
    """Exit code, stdout and stderr of the command in a process of its own."""
    code = f"import sys; from remoe_sim import cli; sys.argv = ['remoe-sim', *{list(map(str, arguments))!r}]; cli.run()"
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr
