"""What drivers of remote files raise, as one kind of error with a sentence that says what to do."""

from __future__ import annotations

import re

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
