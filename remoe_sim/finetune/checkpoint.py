"""Keep the state of training, and write the tuned model."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.util.files import replacing, told
from remoe_sim.util.output_places import UnwritableError

if TYPE_CHECKING:
    from remoe_sim.finetune.gates import Gates


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


APART = "finetune"  # a folder of its own: engines read every .safetensors file that lies beside config.json


def state_folder(output: Path) -> Path:
    """Where a run that is to write `output` keeps its state until it is done."""
    return output.with_name(f".{output.name}.part")


def write(gates: Gates, tokenizer: Any, report: dict[str, Any], output: Path) -> None:
    """Write everything beside `output` and put it into its place; then the state of the run is no longer needed.

    Raises OSError with a sentence if it cannot be written.
    """
    from safetensors import SafetensorError

    made = state_folder(output) / "made"
    shutil.rmtree(made, ignore_errors=True)
    try:
        _write(gates, tokenizer, report, made)
        os.replace(made, output)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(made, ignore_errors=True)
        raise UnwritableError(
            f"'{output}' cannot be written ({error}); make room there, and the same command goes on from where it was"
        ) from None
    shutil.rmtree(made.parent)


def _write(gates: Gates, tokenizer: Any, report: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    (folder / APART).mkdir(parents=True)
    gates.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = {name: value.cpu().contiguous() for name, value in gates.values().items()}
    save_file(tensors, folder / APART / "gates.safetensors", metadata={"format": "pt"})
    (folder / APART / "report.json").write_text(json.dumps(report, indent=2) + "\n")
