"""What a run leaves: a checkpoint as Transformers reads it, and beside its files the gates alone and a report."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from remoe_sim.file_writing import UnwritableError
from remoe_sim.finetune.gates import Gates

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
