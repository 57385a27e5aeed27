"""How an engine caches experts, as the settings of a replay: from the [cache] table of its card."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoe_sim.cache.settings import ALLOWED
from remoe_sim.devices.engine import Engine
from remoe_sim.devices.engine import engine as find_engine
from remoe_sim.policy.find import find_policy

FROM_CARD = ("scope", "policy", "admission", "inserts", "admit_after")  # what a profile sets, as it is shown
CAPS = {"inserts": "how many experts enter per layer and step", "admit_after": "after how many uses an expert enters"}


@dataclass(frozen=True)
class EngineCache:
    """What an engine's card says about its cache.

    engine: the name of the card
    settings: arguments of `replay` by name; empty if the engine has no cache of experts
    notes: sentences on what the engine does and a replay does not
    """

    engine: str
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    def besides(self, arguments: Collection[str], given: Collection[str]) -> dict[str, Any]:
        """The settings that a call with these arguments takes, without those that the user gave."""
        return {name: value for name, value in self.settings.items() if name in arguments and name not in given}

    def notes_of(self, arguments: Collection[str]) -> tuple[str, ...]:
        """The notes, and one for each setting that a call with these arguments does not take."""
        left = [CAPS[name] for name in self.settings if name in CAPS and name not in arguments]
        return (*self.notes, *(f"engine {self.engine}: it limits {one}, which only a replay does" for one in left))

    def to_dict(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """The `engine_cache` of JSON answers. used: the arguments of the call, in which the user's own win."""
        own = {name: used[name] for name in FROM_CARD if name in used and (name in self.settings or name not in CAPS)}
        overridden = [name for name, value in self.settings.items() if used.get(name, value) != value]
        return {"engine": self.engine, **own, "overridden": overridden, "notes": list(self.notes_of(used))}

    def sentence(self, used: Mapping[str, Any]) -> str:
        """What the cache is, in one line."""
        if not self.settings:
            return f"engine {self.engine} has no cache of experts, so that settings are those given"
        found = self.to_dict(used)
        said = [f"{name.replace('_', '-')} {found[name]}" for name in FROM_CARD if name in found]
        overridden = found["overridden"]
        return f"engine {self.engine}: {', '.join(said)}" + (
            f" ({' and '.join(overridden)} as given, not as the engine has it)" if overridden else ""
        )


def engine_cache(engine: str | Path | Engine) -> EngineCache:
    """Return how an engine caches: its name in `remoe-sim list engines`, the path of a card, or an `Engine`.

    `remoe_sim.replay(trace, cache=8, **remoe_sim.engine_cache("warp").settings)` replays its cache. Raises ValueError
    for an unknown engine, and for a card that names an unknown scope, policy or admission.
    """
    found = engine if isinstance(engine, Engine) else find_engine(engine)
    card = found.cache
    if card.get("scope", "none") == "none":
        return EngineCache(found.name, {}, ())
    settings = {name: card[name] for name in FROM_CARD if name in card}
    for name in ("scope", "admission"):
        if name in settings and settings[name] not in ALLOWED[name]:
            raise ValueError(
                f"engine card '{found.name}', [cache]: {name} is {settings[name]!r}; give {' or '.join(ALLOWED[name])}"
            )
    if "policy" in settings:
        only = find_policy(settings["policy"]).admissions
        settings.setdefault("admission", only[0])  # mandatory, unless the policy exists under bypass alone
    return EngineCache(found.name, settings, tuple(_not_replayed(found)))


def _not_replayed(engine: Engine) -> list[str]:
    """A sentence on each thing that the card says and no setting of a replay does."""
    card, doubt = engine.cache, engine.facts.get("cache.policy")
    sentences = []
    if doubt is not None and doubt.status == "assumed":
        sentences.append(f"its policy is only like {doubt.value}: {doubt.source}")
    if card.get("unit", "expert") != "expert":
        sentences.append(f"it caches by {card['unit']}; a replay caches whole experts")
    if "groups" in card:
        sentences.append(f"its layers share a cache by {card['groups']}; a replay gives each layer a cache of its own")
    if "prefill" in card:
        sentences.append(f"its prefill: {card['prefill']}; a replay has one cache for both phases")
    if "bypass_above_batch" in card:
        most = card["bypass_above_batch"]
        sentences.append(f"above {most} tokens a step its cache is not used; a replay uses it in every step")
    return [f"engine {engine.name}: {one}" for one in sentences]
