"""What `remoe-sim finetune` does: load a model, tune its gates by a recipe, and write the checkpoint."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from remoe_sim.capture.routers import text_config
from remoe_sim.capture.running import load
from remoe_sim.finetune.checkpoint import state_folder, write
from remoe_sim.finetune.gates import Gates
from remoe_sim.finetune.recipe import Recipe, Stage, read_recipe
from remoe_sim.finetune.texts import digest, flat, read_texts, split
from remoe_sim.finetune.training import Trainer, TrainingPoint
from remoe_sim.util.display import stamp
from remoe_sim.util.files import locked, told
from remoe_sim.util.output_places import followed

SCHEMA = "remoe-sim.finetune.v1"
PACKAGES = ("torch", "transformers", "safetensors")
NEEDED = (
    "packages 'torch', 'transformers' and 'safetensors' are needed; install them: pip install 'remoe-sim[finetune]'"
)
Texts = str | os.PathLike[str] | Sequence[str]


@dataclass(frozen=True)
class Tuned:
    """What a run did. original and tuned: the model before, and as it was written; history: every evaluation; gates:
    how many numbers were tuned, of how many parameters; notes: sentences on what was taken for granted."""

    output: str
    recipe: Recipe
    original: TrainingPoint
    tuned: TrainingPoint
    history: tuple[TrainingPoint, ...]
    gates: int
    parameters: int
    layers: int
    notes: tuple[str, ...]

    @property
    def loss_change(self) -> float:
        """The validation loss against the original's, as a share."""
        return self.tuned.loss / self.original.loss - 1

    @property
    def reuse_change(self) -> float | None:
        """Adjacent reuse against the original's, as a share; None where the original has none."""
        return self.tuned.reuse / self.original.reuse - 1 if self.tuned.reuse and self.original.reuse else None

    def to_dict(self) -> dict[str, Any]:
        """What `finetune/report.json` in the checkpoint holds."""
        return {**stamp(SCHEMA), **asdict(self), "loss_change": self.loss_change, "reuse_change": self.reuse_change}


def run(
    model: Any,
    data: Texts,
    output: str | os.PathLike[str],
    *,
    recipe: str | os.PathLike[str] | Recipe = "paper",
    validation: Texts | None = None,
    downstream: Texts | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[Stage, int, TrainingPoint | None], None] | None = None,
) -> Tuned:
    """Tune the gates of a Transformers model, nothing else, and write it as a checkpoint of the same architecture.

    model: a name on the Hugging Face Hub, a folder, or a loaded model (then tokenizer is needed, and its gates are
    tuned in place); data: a `.txt` or `.jsonl` file as `capture` takes, or texts; output: the folder to write, which
    must not be there; recipe: a name, a TOML file or a Recipe; validation: texts for evaluation (else 5 % of data, at
    most 64, are held out); downstream: texts of stages that name them (else data); seed: of the order of the texts and
    of which are held out; progress: called after every step, with a TrainingPoint where one was evaluated. What was
    interrupted goes on from its last evaluation when it is called again in the same way. Raises ValueError for what
    cannot be used.
    """
    with told(Path(output)):
        output = followed(Path(output))
    if output.exists():
        raise ValueError(f"'{output}' is there already; give a folder that is not, or remove it")
    if not output.resolve().parent.is_dir():
        raise ValueError(f"folder '{output.parent}' does not exist; give a path in one that does")
    chosen = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    if seed < 0:
        raise ValueError(f"seed {seed} is not possible; give 0 or more")
    if any(importlib.util.find_spec(package) is None for package in PACKAGES):
        raise ValueError(NEEDED)
    if isinstance(model, str | os.PathLike):
        model, tokenizer = load(os.fspath(model), _one_device(device))
    elif tokenizer is None:
        raise ValueError("a loaded model needs its tokenizer; pass tokenizer=")
    gates = Gates(model)
    chosen, notes = _fitting(chosen, model)
    train, held, more = _texts(data, validation, downstream, tokenizer, chosen, seed)
    about = {
        "recipe": repr(chosen),
        "seed": str(seed),
        "set of training texts": "".join(map(digest, train.values())),
        "set of validation texts": digest(held),
        "model": _digest(gates.values()),
    }
    with locked(output, f"'{output}' is being made by another run; wait until that is done, or give another folder"):
        history = Trainer(gates, chosen, train, held, seed, about, state_folder(output), progress).run()
        if not any(point.within for point in history[1:]):
            shutil.rmtree(state_folder(output))
            raise ValueError(
                f"the validation loss left the band of {_percent(chosen.band)} at the first evaluation "
                f"({history[0].loss:.4f} to {history[1].loss:.4f}), so nothing was written; lower learning_rate or "
                "weights, or evaluate more often"
            )
        tuned = _tuned(str(output), chosen, history, gates, (*notes, *more))
        write(gates, tokenizer, tuned.to_dict(), output)
    return tuned


def _one_device(device: str) -> str:
    """The device that 'auto' means: all of the model is on it, as a gradient goes through every layer."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _fitting(recipe: Recipe, model: Any) -> tuple[Recipe, list[str]]:
    """The recipe with pieces no longer than the model reads."""
    most = getattr(text_config(model), "max_position_embeddings", None)
    if not isinstance(most, int) or most >= recipe.length:
        return recipe, []
    return replace(recipe, length=most), [f"texts are cut into pieces of {most} tokens, the most that the model reads"]


def _texts(
    data: Texts, validation: Texts | None, downstream: Texts | None, tokenizer: Any, recipe: Recipe, seed: int
) -> tuple[dict[str, list[list[int]]], list[list[int]], list[str]]:
    """The pieces that stages may name, those to evaluate on, and what is to be said of them."""
    notes = []
    texts = read_texts(data, tokenizer, recipe.length)
    if validation is None:
        texts, held = split(texts, seed)
        notes.append(f"{len(held):,} of {len(texts) + len(held):,} texts were held out for validation")
    else:
        held = read_texts(validation, tokenizer, recipe.length)
    train = {"data": flat(texts, "the texts to train on")}
    train["downstream"] = train["data"]
    if downstream is not None:
        train["downstream"] = flat(read_texts(downstream, tokenizer, recipe.length), "the downstream texts")
        if all(stage.data != "downstream" for stage in recipe.stages):
            raise ValueError(f"no stage of recipe '{recipe.name}' reads downstream texts; leave them out")
    elif any(stage.data == "downstream" for stage in recipe.stages):
        notes.append("no downstream texts were given, so their stage read the same texts as the others")
    return train, flat(held, "the texts for validation"), notes


def _tuned(output: str, recipe: Recipe, history: Sequence[TrainingPoint], gates: Gates, notes: Sequence[str]) -> Tuned:
    original, last = history[0], [point for point in history if point.within][-1]
    ended = [point for point in history if not point.within]
    said = [
        f"stage '{point.stage}' ended at step {point.step}, where the validation loss was {point.loss:.4f}, out of the "
        f"band of {_percent(recipe.band)}; the gates are those of the last evaluation within it"
        for point in ended
    ]
    return Tuned(
        output,
        recipe,
        original,
        last,
        tuple(history),
        sum(tensor.numel() for tensor in gates.tensors.values()),
        sum(tensor.numel() for tensor in gates.model.parameters()),
        len(gates.routers),
        (*notes, *said),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _digest(values: dict[str, Any]) -> str:
    import torch

    found = hashlib.sha256()
    for name, value in values.items():
        found.update(name.encode() + value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
