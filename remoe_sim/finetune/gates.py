"""The gates of a model: which tensors are tuned, what they say of a pass, and what they said before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from remoe_sim.capture.routers import Choice, Router, find_routers, is_sigmoid, read_choice


@dataclass(frozen=True)
class Routing:
    """What the gate of one layer said of a pass. logp: float32[B, T, E] log probabilities, with their gradient;
    experts: int64[B, T, K]; reference: float32[B, T, E] of the frozen gate, without gradient, or None."""

    logp: Any
    experts: Any
    reference: Any


class Gates:
    """The gates of a model, and all else of it frozen.

    Those tensors are tuned that belong to a router and have a floating type, but for corrections of scores: training
    sets them by a rule of its own, not by a gradient. Raises ValueError for a model without routers, or with gates that
    are quantised.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()  # no dropout, no jitter: what is tuned is what will run
        self.routers: Sequence[Router] = find_routers(model)
        model.requires_grad_(False)
        self.references = [copy.deepcopy(router.module) for router in self.routers]
        self.tensors = _tensors(model, self.routers)
        for tensor in self.tensors.values():
            tensor.requires_grad_(True)
        self._sigmoid: dict[int, bool] = {}

    def values(self) -> dict[str, Any]:
        """A copy of the tuned tensors, by their names in the model."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def set(self, values: dict[str, Any]) -> None:
        """Put values into the model, rounded to the type that its gates have."""
        import torch

        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(values[name])

    def run(self, ids: Any, real: Any, *, reference: bool) -> tuple[Any, list[Routing]]:
        """One pass over ids int64[B, T] without its padding, real bool[B, T]: the logits [B, T, V] and what every gate
        said; reference: what the frozen gates say of the same hidden states, too."""
        seen: list[tuple[Any, Any]] = [(None, None) for _ in self.routers]

        def keep(at: int) -> Any:
            def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
                before = self._frozen(at, args, kwargs) if reference else None
                seen[at] = output, before

            return hook

        hooks = [
            router.module.register_forward_hook(keep(at), with_kwargs=True) for at, router in enumerate(self.routers)
        ]
        try:
            logits = self.model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        return logits, [self._routing(at, *one, tuple(ids.shape)) for at, one in enumerate(seen)]

    def _frozen(self, at: int, args: Any, kwargs: Any) -> Any:
        import torch

        with torch.no_grad():
            return self.references[at](*args, **kwargs)

    def _routing(self, at: int, output: Any, before: Any, shape: tuple[int, int]) -> Routing:
        router = self.routers[at]
        choice = self._choice(router, output)
        if len(choice.experts) != shape[0] * shape[1]:
            raise ValueError(f"the router '{router.name}' saw {len(choice.experts)} tokens of {shape[0] * shape[1]}")
        if at not in self._sigmoid:
            self._sigmoid[at] = _is_sigmoid(choice)
        reference = None if before is None else self._logp(at, self._choice(router, before).logits)
        tables = (self._logp(at, choice.logits), choice.experts.long(), reference)
        return Routing(*(None if one is None else one.reshape(*shape, -1) for one in tables))

    def _choice(self, router: Router, output: Any) -> Choice:
        values = output if isinstance(output, tuple | list) else [output]
        tables = [one.reshape(-1, one.shape[-1]) for one in values if getattr(one, "ndim", 0) > 1]
        if not tables:
            raise ValueError(f"the router '{router.name}' did not run, so it cannot be tuned; try another attention or "
                             "experts implementation of Transformers")  # fmt: skip
        choice = read_choice(router, tables)
        if choice.logits is None:
            raise ValueError(f"the router '{router.name}' does not return its logits, so it cannot be tuned")
        return choice

    def _logp(self, at: int, logits: Any) -> Any:
        """Log probabilities of all experts: a softmax, or sigmoid scores divided by their sum."""
        import torch

        scores = torch.nn.functional.logsigmoid(logits.float()) if self._sigmoid[at] else logits.float()
        return scores.log_softmax(-1)


def _tensors(model: Any, routers: Sequence[Router]) -> dict[str, Any]:
    """The tensors to tune, by their names in the model."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    found = {}
    for router in routers:
        for name, tensor in router.module.named_parameters():
            if "correction" in name:
                continue
            if not tensor.is_floating_point():
                kind = str(tensor.dtype).removeprefix("torch.")
                raise ValueError(f"the gate '{router.name}' is stored as {kind}; give a model that is not quantised")
            found[names[id(tensor)]] = tensor
    return found


def _is_sigmoid(choice: Choice) -> bool:
    weights = None if choice.weights is None else choice.weights.detach()
    return is_sigmoid(Choice(choice.experts, weights, choice.logits.detach()))
