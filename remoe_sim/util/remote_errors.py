"""How long a server may be silent, and what is tried again: it may be slow as long as it sends something."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from remoe_sim.progress import Stage
from remoe_sim.remote_errors import RemoteError, as_clause, is_passing

STALL_S = 30.0  # without any data, before a request is given up
TRIES = 3
PAUSE_S = 0.2  # before the second try, twice that before the third
_SCHEMES = re.compile(r"(?:^|::)([A-Za-z][\w+.-]*)://")
T = TypeVar("T")


def patience(url: str) -> dict[str, Any]:
    """Arguments of fsspec's drivers by their schemes: no limit to the time that a file takes, one to silence.

    What a user has configured for fsspec goes before it.
    """
    found = {}
    for scheme in _SCHEMES.findall(url):
        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            found[scheme] = _merged(scheme, "client_kwargs", timeout=ClientTimeout(
                total=None, sock_connect=STALL_S, sock_read=STALL_S))  # fmt: skip
        elif scheme in ("s3", "s3a"):
            found[scheme] = _merged(scheme, "config_kwargs", connect_timeout=STALL_S, read_timeout=STALL_S,
                                    retries={"max_attempts": 1})  # fmt: skip
    return found


def _merged(scheme: str, name: str, **values: Any) -> dict[str, Any]:
    from fsspec.config import conf

    return {name: {**values, **conf.get(scheme, {}).get(name, {})}}


def tried(work: Callable[[], T], about: str) -> T:
    """The result of work that may be done again, up to TRIES times where what went wrong may pass, and no longer than
    that many silences; what is tried again is said on stderr.

    Raises RemoteError, whatever a driver raises.
    """
    start = time.monotonic()
    for number in range(1, TRIES + 1):
        try:
            with watched(about):
                return work()
        except RemoteError:
            raise
        except Exception as error:
            clause = as_clause(error)
            spent = time.monotonic() - start
            if number == TRIES or not is_passing(error) or spent > (TRIES - 0.5) * STALL_S:
                raise clause from None
            why = str(clause).partition(";")[0]
            print(f"remoe-sim: {about}: {why}; trying again ({number + 1} of {TRIES})", file=sys.stderr)
            time.sleep(PAUSE_S * 2 ** (number - 1))
    raise AssertionError("the last try returns or raises")


def moved(move: Callable[[Any], None], done: Stage, about: str) -> None:
    """Moves a whole file, from its beginning again where that may help; `move` takes what fsspec calls with bytes."""
    from fsspec.callbacks import Callback

    sent = [0]

    class Told(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            done.advance(inc)
            sent[0] += inc
            _came()

    def once() -> None:
        done.advance(-sent[0])
        sent[0] = 0
        move(Told())

    tried(once, about)


@contextmanager
def watched(about: str) -> Iterator[None]:
    """Says on stderr when a server has been silent for a third of what it may."""
    over = threading.Event()
    _came()

    def watch() -> None:
        while not over.wait(max(0.0, _last[0] + STALL_S / 3 - time.monotonic())):
            if time.monotonic() - _last[0] >= STALL_S / 3:
                print(f"remoe-sim: {about}: waiting for the server, which sends nothing", file=sys.stderr)
                over.wait()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


_last = [0.0]  # when a server sent something


def _came() -> None:
    _last[0] = time.monotonic()
