"""Recipes: what is tuned towards, in which stages, and when to stop. A TOML file each."""

from __future__ import annotations

import inspect
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from remoe_sim.finetune import terms
from remoe_sim.util.errors import unknown
from remoe_sim.util.input_files import read_text

GIVEN = ("logits", "ids", "real", "logp", "reference", "experts")  # what a pass offers; other parameters are options
FOLDER = Path(__file__).parent / "recipes"
DATA = ("data", "downstream")


@dataclass(frozen=True)
class Term:
    """A weight that rises from zero over `ramp` steps, and options of the term's function."""

    weight: float
    ramp: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def at(self, step: int) -> float:
        """The weight in a step, counted from 0: weight · min(1, (step + 1) / ramp)."""
        return self.weight * min(1.0, (step + 1) / self.ramp) if self.ramp else self.weight


@dataclass(frozen=True)
class Stage:
    """steps of the optimiser with these terms. warm_up: steps over which the learning rate rises; data: the texts, or
    those of the downstream task."""

    name: str
    steps: int
    learning_rate: float
    terms: Mapping[str, Term]
    warm_up: int = 0
    data: str = "data"


@dataclass(frozen=True)
class Recipe:
    """length: most tokens of a piece of text; batch: pieces per pass; accumulate: passes per step; clip: largest norm
    of the gradient (0: any); evaluate_every: steps between evaluations, at which the state is kept too; band: a stage
    ends when the validation loss is above that of the untouched model by more than this share; bf16: compute in it
    where the device can."""

    name: str
    stages: tuple[Stage, ...]
    length: int
    batch: int
    accumulate: int
    evaluate_every: int
    band: float
    clip: float = 1.0
    weight_decay: float = 0.0
    bf16: bool = False
    about: str = ""


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(name_or_path: str | os.PathLike[str]) -> Recipe:
    """A recipe by name, or a user's own TOML file; ValueError, in one sentence, for one that cannot be used."""
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and "/" not in name_or_path and path.suffix != ".toml":
        if name_or_path not in recipe_names():
            raise unknown("recipe", name_or_path, recipe_names())
        path = FOLDER / f"{name_or_path}.toml"
    try:
        text = read_text(path, "recipe")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ValueError(
            f"recipe '{path}' cannot be read ({why}); give {', '.join(recipe_names())} or a file"
        ) from None
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # also of a number with thousands of digits
        raise ValueError(f"recipe '{path}' is no valid TOML: {error}; correct the file") from None
    return recipe_of(path.stem, values, f"recipe '{path.name}'")


def recipe_of(name: str, values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a table of TOML holds; `where` is what messages call it."""
    values = dict(values)
    stages = values.pop("stages", None)
    if not isinstance(stages, list) or not stages or not all(isinstance(one, dict) for one in stages):
        raise ValueError(f"{where} has no [[stages]]; give at least one with name, steps, learning_rate and terms")
    made: Recipe = _made(Recipe, {"name": name, "stages": tuple(_stage(one, where) for one in stages), **values}, where)
    names = [stage.name for stage in made.stages]
    if len(set(names)) < len(names):
        raise ValueError(f"{where} has two stages of one name; give each stage a name of its own")
    return made


@cache
def term_functions() -> dict[str, Any]:
    """The terms there are, by name: the public functions of `remoe_sim.finetune.terms`."""
    return {name: one for name, one in vars(terms).items() if inspect.isfunction(one) and not name.startswith("_")}


@cache
def takes(term: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a term needs of a pass, and what its options are called."""
    names = tuple(inspect.signature(term_functions()[term]).parameters)
    return tuple(name for name in names if name in GIVEN), tuple(name for name in names if name not in GIVEN)


def _stage(values: dict[str, Any], where: str) -> Stage:
    where = f"{where}, stage '{values.get('name', '')}'"
    given = values.get("terms")
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{where} has no terms; give some of {', '.join(sorted(term_functions()))} with their weights")
    stage: Stage = _made(
        Stage, {**values, "terms": {name: _term(name, one, where) for name, one in given.items()}}, where
    )
    if stage.data not in DATA:
        raise ValueError(f"{where}: {unknown('data', stage.data, DATA)}")
    return stage


def _term(name: str, value: Any, where: str) -> Term:
    if name not in term_functions():
        raise ValueError(f"{where}: {unknown('term', name, term_functions())}")
    options = dict(value) if isinstance(value, dict) else {"weight": value}
    weight, ramp = options.pop("weight", None), options.pop("ramp", 0)
    for option, chosen in options.items():
        if option not in takes(name)[1]:
            raise ValueError(f"{where}, {name}: {unknown('option', option, ['weight', 'ramp', *takes(name)[1]])}")
        numbers = chosen if isinstance(chosen, list) and chosen else [chosen]
        if not all(type(one) is int and one >= 1 for one in numbers):
            raise ValueError(f"{where}, {name}: {option} is {chosen!r}; give whole numbers from 1")
    term: Term = _made(Term, {"weight": weight, "ramp": ramp, "options": options}, f"{where}, {name}")
    return term


_LEAST = {
    "steps": 1, "warm_up": 0, "ramp": 0, "length": 2, "batch": 1, "accumulate": 1, "evaluate_every": 1, "band": 0.0,
    "clip": 0.0, "weight_decay": 0.0, "learning_rate": 0.0, "weight": 0.0,
}  # fmt: skip


def _made(kind: Any, values: dict[str, Any], where: str) -> Any:
    """The dataclass, with all its numbers checked."""
    known = {one.name: one for one in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{where}: {unknown('entry', name, known)}")
        if name in _LEAST:
            whole = isinstance(_LEAST[name], int)
            right = type(value) in ((int,) if whole else (int, float)) and math.isfinite(value)
            if not right or value < _LEAST[name]:
                what = "a whole number" if whole else "a number"
                raise ValueError(f"{where}: {name} is {value!r}; give {what} from {_LEAST[name]:g}")
        elif known[name].type in ("bool", "str") and type(value).__name__ != known[name].type:
            raise ValueError(f"{where}: {name} is {value!r}; give a {known[name].type}")
    missing = [one for one in inspect.signature(kind).parameters.values() if one.default is one.empty]
    for one in missing:
        if one.name not in values:
            raise ValueError(f"{where}: '{one.name}' is missing; give it")
    return kind(**values)
