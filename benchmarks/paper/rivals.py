"""ReMoE against what an engine can do at inference time for nothing: routers that follow the cache, in the closed loop.

    python -m benchmarks.paper.rivals                 # models of `train.py`; 20 minutes per architecture on two cores
    python -m benchmarks.paper.rivals --quick

Every row is a model (original, ReMoE, three-stage) and a route (none, cache-prior, max-rank, drop, substitute, each at
a strength) towards an LRU cache of 8 or 16 of 32 experts per layer. Loss and all counts are of the same 200 texts that
no model was tuned on, under teacher forcing; then of texts of another kind (the descriptions of installed packages),
and of text that the models write themselves (sampled, without a loss). Differences are against the original without a
route, with 95 % intervals over requests. The open loop (`reroute`) stands next to the closed one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

import remoe_sim
from benchmarks.paper import drawing, text_losses
from benchmarks.paper.expert_use import compare_evenness
from benchmarks.paper.rivals_table import CAPACITIES, markdown, pareto
from benchmarks.paper.small_models import ARCHITECTURES, say
from benchmarks.paper.stdlib_texts import excerpts
from benchmarks.paper.train import FORMS, PROMPT, Maker
from benchmarks.script import keep, options
from remoe_sim.capture import run as capture
from remoe_sim.trace.reader import read_trace
from remoe_sim.trace.writer import write_trace

CACHES = (8, 16)
ROUTES: tuple[tuple[str, str, float], ...] = (
    ("cache-prior", "bias", 0.1),
    ("cache-prior", "bias", 0.2),
    ("cache-prior", "bias", 0.4),
    ("max-rank", "max_rank", 8),
    ("drop", "threshold", 0.5),
    ("drop", "threshold", 1.0),
    ("substitute", "threshold", 0.7),
    ("substitute", "threshold", 0.4),
)
TUNED_ROUTES: tuple[tuple[str, str, float], ...] = (("cache-prior", "bias", 0.1), ("cache-prior", "bias", 0.2))
MODELS = {"original": "original", "paper": "ReMoE", "three-stage": "three-stage"}
POLICIES = ("lru", "belady")
RESAMPLES, CONFIDENCE = 1999, 0.95
SAMPLED = 64  # tokens that a model writes after each prompt


def main() -> None:
    parser = options(__doc__, quick={"architecture": "qwen"}, output=None)
    parser.add_argument("--models", type=Path, default=drawing.OUTPUT / "models", help="folder of train.py")
    parser.add_argument("-o", "--output", type=Path, default=drawing.OUTPUT / "rivals", help="folder")
    parser.add_argument("--result", type=Path, help="also write all rows there, as JSON")
    parser.add_argument("--architecture", default=",".join(ARCHITECTURES), help="deepseek, qwen or both")
    given = parser.parse_args()
    form, models = FORMS["full"], given.models / "full"
    routes, tuned_routes, caches = ROUTES, TUNED_ROUTES, CACHES
    if given.quick:
        form, models = FORMS["quick"].scaled(0.04), given.models / "quick-x0.04"
        routes, tuned_routes, caches = ROUTES[::3], TUNED_ROUTES[:1], CACHES[:1]
    rows: list[dict[str, Any]] = []
    for architecture in given.architecture.split(","):
        maker = Maker(architecture, form, "cpu", 0, models / architecture)
        for name in MODELS:
            maker.original() if name == "original" else maker.tuned(name, maker.recipe(name))
        rivals = Rivals(maker, given.output / models.name / architecture)
        rows += rivals.rows(caches, routes, tuned_routes)
        rows += rivals.elsewhere()
        drawing.save(partial(pareto, [row for row in rows if row["architecture"] == architecture], architecture),
                     rivals.folder, "rivals")  # fmt: skip
        print(markdown([row for row in rows if row["architecture"] == architecture], architecture))
    if given.result:
        keep(rows, given.result, indent=1)


class Rivals:
    """All rows of one architecture; what was recorded is kept in a folder and not made again."""

    def __init__(self, maker: Maker, folder: Path) -> None:
        self.maker, self.folder = maker, folder
        folder.mkdir(parents=True, exist_ok=True)

    def rows(
        self, caches: tuple[int, ...], routes: tuple[tuple[str, str, float], ...],
        tuned: tuple[tuple[str, str, float], ...],
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """Rows of the texts of the tuning ones' kind."""
        texts = self.maker.recorded()
        whole = self.recorded("original", texts, "test")
        for name in MODELS:
            yield self.row(name, None, self.recorded(name, texts, "test"), whole, "test")
        probs = self.recorded("original", texts, "test", probs=True)
        for cache in caches:
            for name, some in (("original", routes), ("paper", tuned)):
                for route in some:
                    trace = self.recorded(name, texts, "test", route, cache)
                    row = self.row(name, (route, cache), trace, whole, "test")
                    if name == "original":
                        row["open_loop_hit_rate"] = self.opened(probs, route, cache)
                    yield row

    def elsewhere(self) -> Iterator[dict[str, Any]]:
        """Rows of texts of another kind, and of what the models write themselves."""
        route, cache = ROUTES[1], CACHES[0]
        for kind, texts in (("packages", self.descriptions()), ("sampled", self.maker.recorded())):
            whole = self.recorded("original", texts, kind)
            for name, some in (("original", None), ("paper", None), ("original", route), ("paper", route)):
                trace = self.recorded(name, texts, kind, some, cache)
                yield self.row(name, some and (some, cache), trace, whole, kind)

    def descriptions(self) -> list[str]:
        """Excerpts of the descriptions of installed packages: prose and markup instead of sources."""
        form = self.maker.form
        texts = sorted({one.metadata.get_payload() or "" for one in distributions()})  # type: ignore[attr-defined]
        plain = [text.encode("ascii", "ignore").decode() for text in texts]
        return excerpts([text for text in plain if len(text) >= form.length], form.length, form.recorded)

    def recorded(
        self, model: str, texts: list[str], kind: str, route: tuple[str, str, float] | None = None,
        cache: int | None = None, probs: bool = False,
    ) -> remoe_sim.Trace:  # fmt: skip
        """A trace of the texts, or of what a model writes after their beginnings."""
        ending = "-probs" if probs else "" if route is None else f"-{route[0]}-{route[2]:g}-{cache}"
        path = self.folder / f"{kind}-{model}{ending}.parquet"
        if not path.exists():
            say(f"{self.maker.name}: {path.stem}")
            requests = path.with_suffix(".jsonl")
            lines = [{"prompt": one[:PROMPT], "completion": one[PROMPT:]} for one in texts]
            if kind == "sampled":
                lines = [{"prompt": one["prompt"]} for one in lines]
            requests.write_text("\n".join(map(json.dumps, lines)) + "\n")
            settings: dict[str, Any] = {} if route is None else {"route": route[0], route[1]: route[2], "cache": cache}
            if kind == "sampled":
                settings |= {"temperature": 1.0, "max_new_tokens": SAMPLED}
            trace = capture(
                self.maker.folder / model, requests, teacher_force=kind != "sampled", batch=1 if route else 20,
                device="cpu", probs=probs, **settings,
            )  # fmt: skip
            requests.unlink()
            write_trace(trace, path)
        return read_trace(path)

    def opened(self, probs: remoe_sim.Trace, route: tuple[str, str, float], cache: int) -> float | None:
        """The hit rate that the open loop promises, of decode lookups, the cache never emptied."""
        found = remoe_sim.reroute(probs, cache, route[0], **{route[1]: route[2]})  # type: ignore[arg-type]
        return found.after.decode.hit_rate

    def row(
        self, model: str, routed: tuple[tuple[str, str, float], int] | None, trace: remoe_sim.Trace,
        whole: remoe_sim.Trace, kind: str,
    ) -> dict[str, Any]:  # fmt: skip
        """Everything of one model and route, and what differs from the original without a route."""
        row: dict[str, Any] = {
            "architecture": self.maker.name, "texts": kind, "model": MODELS[model],
            "route": routed and routed[0][0], "strength": routed and routed[0][2], "cache": routed and routed[1],
            "closed_loop_hit_rate": None, "open_loop_hit_rate": None, "changed_share": None, "loss": None,
        }  # fmt: skip
        if routed:
            loop = trace.origin["route"]
            row["closed_loop_hit_rate"] = loop["decode"]["hits"] / loop["decode"]["lookups"]
            row["changed_share"] = loop["changed_share"]
            counted = remoe_sim.replay(trace, cache=routed[1], policy="lru")["lru"].decode
            said = loop["decode"]
            row["replay_agrees"] = (counted.lookups, counted.hits) == (said["lookups"], said["hits"])
        if "loss" in trace.origin:
            row["loss"] = self._loss(trace, whole)
        found = remoe_sim.compare(
            whole, trace, cache=",".join(map(str, CAPACITIES)), policy=",".join(POLICIES), resamples=RESAMPLES
        )
        row["reuse_rate"] = _difference(found.verdict)
        row["hit_rate"] = {
            policy: {
                next(iter(one.capacity.values())): _difference(one)
                for one in found.metrics
                if one.metric == "hit_rate" and one.policy == policy and one.capacity
            }
            for policy in POLICIES
        }
        row["bytes_read_per_token"] = {
            next(iter(one.capacity.values())): _difference(one)
            for one in found.metrics
            if one.metric == "bytes_read_per_token" and one.policy == "lru" and one.capacity
        }
        even = compare_evenness(whole, trace, "auto", 1 - CONFIDENCE, RESAMPLES, 0)
        row["load_balance_cv"] = _difference(next(one for one in even.pooled if one.metric == "load_balance_cv"))
        return row

    def _loss(self, trace: remoe_sim.Trace, whole: remoe_sim.Trace) -> dict[str, Any]:
        sides = [self.folder / name for name in (".whole.json", ".this.json")]
        for path, one in zip(sides, (whole, trace), strict=True):
            nats, tokens = zip(*one.origin["loss"]["requests"], strict=True)
            path.write_text(json.dumps({"nats": nats, "tokens": tokens}))
        found = text_losses.compare(*sides)
        for path in sides:
            path.unlink()
        return {"value": found["tuned"], **{name: found[name] for name in ("change", "low", "high")}}


def _difference(one: Any) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    return {"value": one.b, "difference": one.difference, "low": low, "high": high}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
