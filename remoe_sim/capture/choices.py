"""What a router returns, read by the shapes and types of its tensors: families differ in what they return and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.capture.routers import ADVICE, Router

UNWEIGHTED = "gate weights left out, because those of some layers are negative; slots are in their order all the same"
Weights = npt.NDArray[np.floating[Any]]
CLOSE = 0.02  # mean difference of gate weights up to which a scoring function counts as the router's


@dataclass(frozen=True)
class Choice:
    """Of n tokens: experts [n, k], gate weights [n, k] or None, logits [n, E] or None; guessed: the experts are the
    largest logits, because the router does not say which it chose."""

    experts: Any
    weights: Any
    logits: Any
    guessed: bool = False


def tables_of(output: Any) -> list[Any]:
    """The tensors of a router's output that have a row for every token, [n, …] each."""
    values = output if isinstance(output, tuple | list) else [output]
    return [one.detach().reshape(-1, one.shape[-1]) for one in values if getattr(one, "ndim", 0) > 1]


def read_choice(router: Router, tensors: list[Any]) -> Choice:
    """The experts that a router chose, from `tables_of` its output; ValueError if they do not tell.

    Most return logits [n, E], weights [n, k] and experts [n, k], in this order; some scores of all experts [n, E]
    instead of weights, some scores and logits without the experts, and a plain linear layer logits alone.
    """
    floats = [one for one in tensors if one.is_floating_point()]
    wide = [one for one in floats if one.shape[1] == router.experts]
    top_k = router.top_k
    chosen = [one for one in tensors if not one.is_floating_point() and top_k in (None, one.shape[1])]
    if chosen:
        experts = chosen[0]
        if experts.shape[1] == router.experts:  # all are chosen: shapes do not tell logits from weights, order does
            return Choice(experts, floats[-1] if floats else None, floats[0] if len(floats) > 1 else None)
        narrow = [one for one in floats if one.shape == experts.shape]
        if narrow or not wide:
            return Choice(experts, narrow[0] if narrow else None, wide[0] if wide else None)
        return Choice(experts, wide[0].gather(1, experts.long()), None)
    if not wide or not top_k:
        raise ValueError(f"the output of '{router.name}' does not tell which experts it chose; {ADVICE}")
    logits = wide[-1]
    experts = logits.topk(min(top_k, router.experts), dim=-1).indices
    return Choice(experts, wide[0].gather(1, experts) if len(wide) > 1 else None, logits, guessed=len(wide) == 1)


def checked_weights(name: str, weights: Weights, there: npt.NDArray[np.bool_] | slice = slice(None)) -> bool:
    """Whether numbers [tokens, k] can be gate weights: negative ones order the experts, but they are something else.

    there: the tokens that count. Raises ValueError, naming the router or layer, where one is infinite or NaN.
    """
    counted = weights[there]
    if not np.isfinite(counted).all():
        row = int(np.flatnonzero(~np.isfinite(counted).all(axis=1))[0])
        raise ValueError(
            f"the gate weights of {name} are {counted[row].tolist()} for recorded token {row}, so what the model "
            "computed cannot be used; load it in another precision"
        )
    return not (counted < 0).any()


def is_sigmoid(choice: Choice) -> bool:
    """Whether gate weights are those of sigmoid scores and not of a softmax, told from the weights themselves."""
    if choice.weights is None or choice.logits is None or not len(choice.weights):
        return False
    logits, weights = choice.logits.float(), choice.weights.float()
    experts = choice.experts.long()

    def difference(scores: Any) -> float:
        of_chosen = scores.gather(1, experts)
        if experts.shape[1] == 1:
            return float((of_chosen - weights).abs().mean())
        return float((of_chosen / of_chosen.sum(1, True) - weights / weights.sum(1, True)).abs().mean())

    sigmoid = difference(logits.sigmoid())
    return sigmoid < CLOSE and sigmoid < difference(logits.softmax(-1))


def probabilities(logits: Any, sigmoid: bool) -> Any:
    """float16[n, E] that sum to one: a softmax, or sigmoid scores divided by their sum."""
    logits = logits.float()
    if not sigmoid:
        return logits.softmax(-1).half()
    scores = logits.sigmoid()
    return (scores / scores.sum(-1, keepdim=True)).half()
