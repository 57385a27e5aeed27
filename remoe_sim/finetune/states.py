"""The state of a run on disk, so that it can go on where it was as if it had never stopped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from remoe_sim.file_writing import replacing, told


def keep(state: dict[str, Any], folder: Path) -> None:
    """Write the state beside the one there and put it into its place."""
    import torch

    with told(folder):
        folder.mkdir(exist_ok=True)
    written = io.BytesIO()  # of a file that cannot be written torch does not say why
    torch.save(state, written)
    with replacing(folder / "state.pt") as beside:
        beside.write_bytes(written.getbuffer())


def kept(folder: Path, about: dict[str, str]) -> dict[str, Any] | None:
    """The state that a run left, None if it left none.

    about: what makes it the same run, in words and digests. Raises ValueError for a run that was begun otherwise.
    """
    import torch

    path = folder / "state.pt"
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no class for a file that is damaged
        raise ValueError(f"'{path}' cannot be read ({type(error).__name__}); remove '{folder}' to begin anew") from None
    for name, value in about.items():
        if state["about"].get(name) != value:
            raise ValueError(
                f"'{folder}' holds a run with another {name}; repeat that command to go on, or remove it to begin anew"
            )
    return state
