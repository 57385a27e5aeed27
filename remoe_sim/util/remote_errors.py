"""Errors of remote files without secrets, how long a server may be silent, and what is tried again."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from remoe_sim.util.progress import RunningStage

PASSING = (429, 502, 503, 504)  # what a server answers that is busy, or is just being started


class RemoteError(OSError):
    """What went wrong with a URL: the message is a clause, to stand behind its name."""


class MissingError(RemoteError):
    """There is nothing there."""


def without_secrets(url: str) -> str:
    """A URL without a password or key in it, and without a query."""
    return re.sub(r"://[^/@]*@", "://", url.partition("?")[0])


def as_clause(error: Exception) -> RemoteError:
    """What went wrong and what to do about it."""
    if any("timeout" in type(cause).__name__.lower() for cause in (error, error.__cause__)):
        return RemoteError("the server sends nothing; try again later, or copy the file here by other means")
    for cause in (error, error.__cause__):
        name, text = type(cause).__name__.lower(), first_line(cause)
        status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(cause, PermissionError) or "credentials" in name:
            return RemoteError(f"access is refused ({text}); give credentials as fsspec's driver takes them")
        if isinstance(status, int) and status >= 500:
            return RemoteError(f"the server fails ({text}); try again later")
        if "connect" in name:
            return RemoteError(f"the server cannot be reached ({text}); check the address and the network")
    if isinstance(error, FileNotFoundError):
        return MissingError("there is no such object; check the URL")
    if isinstance(error, IsADirectoryError):
        return RemoteError("this is a directory; give the URL of a file in it")
    return RemoteError(f"reading or writing broke off ({first_line(error)}); try again")


def is_passing(error: Exception) -> bool:
    """Whether the same may go well a little later."""
    for cause in (error, error.__cause__):
        name = type(cause).__name__.lower()
        if getattr(cause, "status", None) in PASSING or isinstance(cause, ConnectionResetError | BrokenPipeError):
            return True
        if any(word in name for word in ("timeout", "payload", "disconnected", "incompleteread")):
            return True
    return False


def first_line(error: BaseException | None) -> str:
    lines = str(getattr(error, "message", "") or error).splitlines()
    status = getattr(error, "status", "")
    return f"{status} {without_secrets(lines[0])}".strip() if lines else type(error).__name__


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


def moved(move: Callable[[Any], None], done: RunningStage, about: str) -> None:
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
