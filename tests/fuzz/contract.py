"""What every execution must keep to: it returns, or says in one sentence what is wrong, soon and in little memory."""

import os
import resource
import time
import traceback
from pathlib import Path

from remoe_sim import TraceError

MOST_SECONDS = 2.0  # of processor time, so that a busy machine makes no hang of what is none
MOST_BYTES = 2**30
PACKAGES = ("/remoe_sim/", "/traces/", "/policies/")


class BrokenError(Exception):
    """What an execution did that it must not; `key` is the same for the same defect."""

    def __init__(self, key, text):
        super().__init__(text)
        self.key = key


def limit_memory():
    """From now on this process gets no more than MOST_BYTES besides what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def attempt(target, data, folder):
    """Runs a target on an input; raises BrokenError unless it returns, or refuses with ValueError or TraceError.

    Returns the sentence of a refusal, or None.
    """
    start, most = time.process_time(), _peak_bytes()
    sentence = None
    try:
        target.run(data, folder)
    except Exception as error:
        sentence = str(error)
        if type(error) not in (ValueError, TraceError):
            raise BrokenError(f"{type(error).__name__} at {_place(error)}", "".join(_told(error))) from None
        if not sentence.strip():
            raise BrokenError(f"no sentence at {_place(error)}", "".join(_told(error))) from None
    took, more = time.process_time() - start, _peak_bytes() - most
    if more > MOST_BYTES:  # first, since so much memory takes its time as well
        raise BrokenError("memory", f"{more / 2**20:.0f} MiB more than before; {sentence}")
    if took > MOST_SECONDS:
        raise BrokenError("slow", f"{took:.1f} s; {sentence}")
    return sentence


def _peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _told(error):
    return traceback.format_exception(error, limit=-12)


def _place(error):
    """The innermost line of our own code, without a number, which moves."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [one for one in frames if any(part in one.filename for part in PACKAGES)] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}: {ours[-1].line}"
