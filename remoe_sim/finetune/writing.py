"""What a run leaves: a checkpoint as Transformers reads it, and beside its files the gates alone and a report."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from remoe_sim.finetune.gates import Gates

APART = "finetune"  # a folder of its own: engines read every .safetensors file that lies beside config.json


def state_folder(output: Path) -> Path:
    """Where a run that is to write `output` keeps its state until it is done."""
    return output.with_name(f".{output.name}.part")


def write(gates: Gates, tokenizer: Any, report: dict[str, Any], output: Path) -> None:
    """Write everything beside `output` and put it into its place; then the state of the run is no longer needed."""
    from safetensors.torch import save_file

    part = state_folder(output)
    made = part / "made"
    shutil.rmtree(made, ignore_errors=True)
    (made / APART).mkdir(parents=True)
    gates.model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    tensors = {name: value.cpu().contiguous() for name, value in gates.values().items()}
    save_file(tensors, made / APART / "gates.safetensors", metadata={"format": "pt"})
    (made / APART / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    os.replace(made, output)
    shutil.rmtree(part)
