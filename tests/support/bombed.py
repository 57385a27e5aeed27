"""Run all of `bombs` in this process; print the sentence and the memory of each: python -m tests.support.bombed."""

import json
import resource
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import remoe_sim
from remoe_sim.util.units import parse_range
from tests.support import bombs

MOST = 2**30


def peak():
    """The most memory since `forget`, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget():
    """Begins to count the most memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def main():
    warnings.simplefilter("error")
    ways = [
        (bombs.IMPORTED, remoe_sim.import_trace),
        (bombs.TRACES, remoe_sim.read_trace),
        (bombs.MODELS, remoe_sim.model),
    ]
    with tempfile.TemporaryDirectory() as name:
        made = []
        for table, use in ways:
            for what, make in table.items():
                folder = Path(name, str(len(made)))
                folder.mkdir()
                named = {"format": bombs.NAMED[what]} if what in bombs.NAMED else {}
                made.append((what, partial(use, **named), make(folder)))
        made += [(what, lambda text: parse_range(text, "cache"), text) for what, text in bombs.TYPED.items()]
        remoe_sim.read_trace("sample:qwen-original")  # loads what is loaded late
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MOST
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        found = {what: used(use, given) for what, use, given in made}
    json.dump(found, sys.stdout)


def used(use, given):
    """What came of it, and the memory that it took."""
    forget()
    before = peak()
    try:
        use(given)
        outcome = "accepted"
    except ValueError as error:
        outcome = f"refused: {error}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    return outcome, peak() - before


if __name__ == "__main__":
    main()
