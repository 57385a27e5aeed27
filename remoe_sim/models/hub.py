"""Models on the Hugging Face Hub, by their configuration or the header of a GGUF file; weights are never fetched."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

PLACE = re.compile(r"hf://([\w.-]+)/([\w.-]+)(?:/([\w./-]+\.gguf))?", re.IGNORECASE)
FIRST, MOST = 2**21, 2**28  # bytes of a header that are asked for at first, and at most
CONFIG = 2**24  # bytes that a configuration has at most
PATIENCE = 30.0  # seconds
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class Fetched:
    """What was fetched of a model: a file, where it is from, and the bytes of its weights where an index says them."""

    path: Path
    source: str
    weights: int | None = None


def fetch(text: str, folder: Path) -> Fetched:
    """Fetch the config.json of `hf://org/name`, or the header of `hf://org/name/file.gguf`, into a folder.

    HF_ENDPOINT names another server, HF_TOKEN is sent for what is not public. Raises ValueError for what is not there,
    and where the server cannot be reached.
    """
    match = PLACE.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no place on the Hub; give hf://org/name, or hf://org/name/file.gguf")
    repository, file = f"{match[1]}/{match[2]}", match[3]
    if file is None:
        path = folder / match[2] / "config.json"
        path.parent.mkdir()
        path.write_bytes(_fetched(repository, "config.json", CONFIG))
        return Fetched(path, f"config.json of {repository} on the Hub", _indexed(repository))
    path = folder / Path(file).name
    for name in _parts(file):
        _fetch_header(repository, name, path.with_name(Path(name).name))
    return Fetched(path, f"header of {file} in {repository} on the Hub")


def _parts(file: str) -> list[str]:
    """All parts of a model that was split into files."""
    match = _PART.search(file)
    if match is None:
        return [file]
    return [_PART.sub(f"-{at + 1:05}-of-{match[1]}.gguf", file) for at in range(int(match[1]))]


def _fetch_header(repository: str, file: str, path: Path) -> None:
    """Write the beginning of a GGUF file, as much as its header takes."""
    from remoe_sim.models.gguf import NEEDED, read_header

    size = FIRST
    while True:
        begin = _fetched(repository, file, size)
        path.write_bytes(begin)
        try:
            read_header(path)
            return
        except ImportError:
            raise ValueError(NEEDED) from None
        except ValueError as error:
            if begin[:4] != b"GGUF" or len(begin) < size or size >= MOST:  # more of it would not help
                raise ValueError(f"'{file}' of {repository} is no whole GGUF file ({error}); give another") from None
        size *= 4


def _indexed(repository: str) -> int | None:
    """The bytes of all weights, as the index of a repository says; None where there is none."""
    try:
        index = json.loads(_fetched(repository, "model.safetensors.index.json", 2**26))
        return int(index["metadata"]["total_size"])
    except (ValueError, KeyError, TypeError):
        return None


def _fetched(repository: str, file: str, most: int) -> bytes:
    """The first bytes of a file of a repository."""
    server = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if not server.startswith(("http://", "https://")):
        raise ValueError(f"HF_ENDPOINT is '{server}'; give an address that begins with https://")
    headers = {"Range": f"bytes=0-{most - 1}", "User-Agent": "remoe-sim"}
    if token := os.environ.get("HF_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{server}/{repository}/resolve/main/{file}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return bytes(answer.read(most))
    except urllib.error.HTTPError as error:
        why = {401: "not public: set HF_TOKEN", 403: "not public: set HF_TOKEN", 404: "not there"}
        text = why.get(error.code, f"answered with {error.code}")
        hint = "; name a file, as hf://org/name/file.gguf" if error.code == 404 and file == "config.json" else ""
        raise ValueError(f"'{file}' of {repository} is {text}{hint}") from None
    except (OSError, ValueError) as error:
        why_not = getattr(error, "reason", None) or error
        raise ValueError(
            f"{server} cannot be reached ({why_not}); fetch config.json or a GGUF file yourself and give its path"
        ) from None
