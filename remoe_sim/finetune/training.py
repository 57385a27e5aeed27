"""The loop: steps of the optimiser over the stages of a recipe, evaluated, kept and ended as the recipe says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.finetune.checkpoint import keep, kept
from remoe_sim.finetune.objective import Evaluation, evaluate, loss_of
from remoe_sim.finetune.texts import padded, picked

if TYPE_CHECKING:
    from remoe_sim.finetune.gates import Gates
    from remoe_sim.finetune.recipe import Recipe, Stage


@dataclass(frozen=True)
class TrainingPoint:
    """Where a run was: after `step` steps of a stage (0: before the first). loss and reuse: on the validation texts;
    terms: those of the loss in the last pass; within: whether the loss was within the band."""

    stage: str
    step: int
    loss: float
    reuse: float | None
    terms: Mapping[str, float]
    within: bool


class Trainer:
    """One run. texts: the pieces that a stage may name as its data; about: what makes it the same run when it goes on;
    folder: where its state is kept."""

    def __init__(
        self,
        gates: Gates,
        recipe: Recipe,
        texts: Mapping[str, Sequence[list[int]]],
        validation: Sequence[list[int]],
        seed: int,
        about: dict[str, str],
        folder: Path,
        progress: Callable[[Stage, int, TrainingPoint | None], None] | None,
    ) -> None:
        self.gates, self.recipe, self.texts, self.validation = gates, recipe, texts, validation
        self.seed, self.about, self.folder, self.progress = seed, about, folder, progress
        self.history: list[TrainingPoint] = []

    def run(self) -> list[TrainingPoint]:
        """Train; the gates of the model are then those of the last evaluation within the band."""
        first, begin, state = 0, 0, kept(self.folder, self.about)
        # The optimiser works on float32 copies: steps are too small for bfloat16 to hold.
        self.masters = {name: value.float() for name, value in self.gates.values().items()}
        if state is None:
            found = self._evaluate()
            self.history.append(TrainingPoint("original", 0, found.loss, found.reuse, {}, True))
        else:
            self.history = [TrainingPoint(**one) for one in state["history"]]
            first, begin = state["stage"], state["step"]
            self.masters, state["good"] = (
                {name: value.to(self.gates.model.device) for name, value in state[key].items()}
                for key in ("masters", "good")
            )
        self._tell(self.recipe.stages[0], 0, self.history[0])
        for number in range(first, len(self.recipe.stages)):
            resumed = state if number == first and begin else None
            self._stage(number, begin if number == first else 0, resumed)
        self.gates.set(self.masters)
        return self.history

    def _stage(self, number: int, begin: int, state: dict[str, Any] | None) -> None:
        import torch

        stage = self.recipe.stages[number]
        good = state["good"] if state else self._copy()
        self.gates.set(self.masters)
        optimiser = torch.optim.AdamW(self.masters.values(), lr=stage.learning_rate,
                                      weight_decay=self.recipe.weight_decay)  # fmt: skip
        if state:
            optimiser.load_state_dict(state["optimiser"])
        for step in range(begin, stage.steps):
            found = self._step(number, step, optimiser)
            done = step + 1
            if done % self.recipe.evaluate_every and done < stage.steps:
                self._tell(stage, done, None)
                continue
            point = self._point(stage, done, found)
            if point.within:
                good = self._copy()
            ends = done == stage.steps or not point.within
            if ends:
                self.masters = good
            self._keep(number, done, None if ends else optimiser, good)
            self._tell(stage, done, point)
            if ends:
                return

    def _step(self, number: int, step: int, optimiser: Any) -> dict[str, float]:
        import torch

        recipe, stage = self.recipe, self.recipe.stages[number]
        pieces = self.texts[stage.data]
        sums = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        found: dict[str, float] = {}
        for part in range(recipe.accumulate):
            chosen = picked(len(pieces), recipe.batch, step * recipe.accumulate + part, (self.seed, number))
            ids, real = padded([pieces[at] for at in chosen], self.gates.model.device)
            with precision(recipe, self.gates.model)():
                loss, found = loss_of(self.gates, stage, step, ids, real)
            loss.backward()
            for name, tensor in self.gates.tensors.items():
                if tensor.grad is not None:
                    sums[name] += tensor.grad.float()
                    tensor.grad = None
        for name, master in self.masters.items():
            master.grad = sums[name] / recipe.accumulate
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), recipe.clip or float("inf"))
        if not torch.isfinite(norm):
            raise ValueError(f"the gradient of step {step + 1} of stage '{stage.name}' is not finite; lower "
                             "learning_rate, or leave out bf16")  # fmt: skip
        for group in optimiser.param_groups:
            group["lr"] = stage.learning_rate * (min(1.0, (step + 1) / stage.warm_up) if stage.warm_up else 1.0)
        optimiser.step()
        self.gates.set(self.masters)
        return found

    def _point(self, stage: Stage, step: int, terms: dict[str, float]) -> TrainingPoint:
        found = self._evaluate()
        within = found.loss <= self.history[0].loss * (1 + self.recipe.band)  # False where it is not a number
        point = TrainingPoint(stage.name, step, found.loss, found.reuse, terms, within)
        self.history.append(point)
        return point

    def _evaluate(self) -> Evaluation:
        return evaluate(self.gates, self.validation, self.recipe.batch, precision(self.recipe, self.gates.model))

    def _copy(self) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in self.masters.items()}

    def _keep(self, number: int, step: int, optimiser: Any, good: dict[str, Any]) -> None:
        """The state after a step; after the last one of a stage that at the beginning of the next."""
        inside = optimiser is not None
        state = {
            "about": self.about,
            "stage": number if inside else number + 1,
            "step": step if inside else 0,
            "masters": {name: value.detach() for name, value in self.masters.items()},
            "good": good,
            "optimiser": optimiser.state_dict() if inside else None,
            "history": [asdict(one) for one in self.history],
        }
        keep(state, self.folder)

    def _tell(self, stage: Stage, step: int, point: TrainingPoint | None) -> None:
        if self.progress is not None:
            self.progress(stage, step, point)


def precision(recipe: Recipe, model: Any) -> Callable[[], AbstractContextManager[Any]]:
    """What a pass runs in: bfloat16 where the recipe asks for it and the device has it, else the weights' own type."""
    import torch

    supported = model.device.type == "cuda" and torch.cuda.is_bf16_supported()
    if recipe.bf16 and supported and model.dtype == torch.float32:
        return lambda: torch.autocast("cuda", torch.bfloat16)
    return nullcontext
