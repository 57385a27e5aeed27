"""The cells of a sweep: every combination of what was asked, and the passes that answer them."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from remoe_sim.cache.caches import Preload, check_alike
from remoe_sim.cache.call import sized
from remoe_sim.cache.settings import Limit, Settings, known_sizes
from remoe_sim.devices.costs import place_of_misses
from remoe_sim.policy.base import Policy
from remoe_sim.policy.find import find_policy
from remoe_sim.policy.guard import fast_policy
from remoe_sim.policy.stack import StackPolicy
from remoe_sim.trace.accesses import DECODE_LOOKUP, select_tokens
from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.schedule import batch
from remoe_sim.trace.schema import content_hash
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.plugin_sources import is_ours, sources_of
from remoe_sim.util.version import __version__

if TYPE_CHECKING:
    from remoe_sim.devices.run import RunsOn
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.studies.sweep.axes import Axes

_LOADING = Lock()


@dataclass(frozen=True)
class ChosenPolicy:
    """A policy as the user named it. mark: hash of the file that it is in and of all that it imports from outside the
    installed packages, so that a changed one is computed again; source: that file, if it is the user's own; fast:
    compiled without bounds checks; note: what the hash cannot tell, or nothing.

    Pickled, it is what the user typed, with the user's own file: another process finds or loads the policy itself.
    """

    text: str
    policy: Policy
    mark: str
    source: bytes | None
    fast: bool = False
    note: str = ""

    @classmethod
    def of(cls, text: str, policy: Policy) -> ChosenPolicy:
        file = inspect.getsourcefile(type(policy))
        source = Path(file).read_bytes() if file and Path(file).is_file() else repr(type(policy)).encode()
        own, module = source if text.split(":")[0].endswith(".py") else None, sys.modules.get(type(policy).__module__)
        if module is None or is_ours(module.__name__) or not getattr(module, "__file__", None):
            return cls(text, policy, hashlib.sha256(source).hexdigest()[:16], own, policy.fast)
        sources = sources_of(module)
        note = ""
        if sources.unknown:
            note = (
                f"policy '{policy.label}' imports in a way that cannot be followed ({', '.join(sources.unknown)}), so "
                "rows that are in a file stay when what it imports there changes; name another file then"
            )
        return cls(text, policy, sources.digest, own, policy.fast, note)

    @property
    def label(self) -> str:
        return self.policy.label

    def __reduce__(self) -> tuple[Any, ...]:
        return _found, (self.text, self.mark, self.source, self.fast)


def _found(text: str, mark: str, source: bytes | None, fast: bool = False) -> ChosenPolicy:
    """The policy in this process, made once for all that ask; ValueError if there is none, or another of that name."""
    with _LOADING, fast_policy() if fast else nullcontext():
        return _made(text, mark, source, fast)


@cache
def _made(text: str, mark: str, source: bytes | None, fast: bool) -> ChosenPolicy:
    if source is not None:
        path, *options = text.split(":")
        kept = Path(_folder().name) / mark / Path(path).name
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(source)
        try:
            chosen = ChosenPolicy.of(":".join((str(kept), *options)), find_policy(":".join((str(kept), *options))))
        except ValueError as error:
            raise ValueError(str(error).replace(str(kept), path)) from None
        if chosen.mark != mark:
            raise ValueError(f"policy '{path}' imports other modules here; install the same here and where it is asked")
        return ChosenPolicy(text, chosen.policy, mark, source, fast)
    chosen = ChosenPolicy.of(text, find_policy(text))
    if chosen.mark != mark:
        raise ValueError(f"policy '{text}' is another one here; install the same version of the package it comes from")
    return chosen


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where users' own files are kept until the process ends; nobody else may write there."""
    return tempfile.TemporaryDirectory(prefix="remoe-sim-policies-")


ON_DEVICE = ("device", "device_model", "quant", "overlap", "misses_from", "lanes", "context", "compute_ms")


@dataclass(frozen=True)
class Subject:
    """A trace of a sweep: its name and hash, and itself or where to read it, so that only one is in memory.

    experts: of each MoE layer; slots: of all tokens at each of them; facts: the columns that say what it is.
    """

    name: str
    given: Trace | str
    expert_bytes: Any
    digest: str
    experts: tuple[int, ...]
    slots: tuple[int, ...]
    facts: dict[str, Any]

    @classmethod
    def of(cls, given: TraceLike, number: int, expert_bytes: Any) -> Subject:
        """Reads the trace once to hash it; TraceError if it cannot be read."""
        trace = as_trace(given)
        name = trace.path or f"trace-{number}"
        facts = {
            "model": trace.model.name, "tokens": trace.tokens, "requests": trace.requests,
            "moe_layers": trace.moe_layers, "experts": max(trace.model.experts),
        }  # fmt: skip
        slots = tuple(trace.tokens * k for k in trace.model.top_k)
        itself = given if isinstance(given, Trace) else str(given)
        return cls(name, itself, expert_bytes, content_hash(trace), trace.model.experts, slots, facts)

    def load(self, size: int | None = None) -> Trace:
        """The trace with sizes of experts as far as they are known; scheduled anew for `size` requests at once.

        TraceError if the file holds another trace by now, or here.
        """
        trace = as_trace(self.given)
        if trace is not self.given and content_hash(trace) != self.digest:
            raise trace.error("this is another trace than the one that the sweep was planned with; run the sweep again "
                              "while nobody writes to the file, and let workers see the same files")  # fmt: skip
        trace = known_sizes(trace, self.expert_bytes)
        return trace if size is None else batch(trace, size)


@dataclass(frozen=True)
class Variant:
    """What counts are turned into, without another pass: bytes of sizes, and times on a device."""

    run: RunsOn | None
    sizes: tuple[int, ...] | None  # bytes of an expert in each MoE layer
    model: SizedModel | None

    @cached_property
    def mark(self) -> str:
        """Hash of the sizes and of the cards' content."""
        about = self.sizes, None if self.run is None else self.run.device.to_dict(), self.model
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Cell:
    """One row of the result. at: the limit of the cache of every MoE layer, or of the one cache of all."""

    key: str
    names: dict[str, Any]
    limit: Limit
    at: tuple[int, ...]
    variant: Variant


@dataclass
class Pass:
    """Cells that one replay serves, or one per distinct limit where the policy needs that.

    training: what the policy learns from; decode_tokens: those that are counted; sizes: bytes of an expert in each
    layer, where the limit of a cache of all layers counts bytes.
    """

    subject: Subject
    batch: int | None
    settings: Settings
    policy: ChosenPolicy
    training: Preload
    decode_tokens: int
    in_bytes: bool = False
    sizes: tuple[int, ...] | None = None
    cells: list[Cell] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        return any(cell.variant.run is not None for cell in self.cells)


def passes_of(axes: Axes, subjects: Sequence[Subject], train: Trace | None) -> Iterator[Pass]:
    """All passes in the order of rows; TraceError for a trace that cannot be replayed so."""
    policies = [ChosenPolicy.of(text, policy) for text, policy in axes.policies]
    taught = None if train is None else content_hash(train)
    training = Preload()
    for subject in subjects:
        for size in axes.batches:
            trace = subject.load(size)
            if train is not None:
                check_alike(trace, train)
                training = training if training.counts else Preload.of(trace, train)
            variants = [_variant(trace, run, axes) for run in axes.runs]
            for settings in axes.settings:
                tokens = select_tokens(trace, settings.phase, settings.reset, settings.warmup)
                for policy in policies:
                    one = Pass(subject, size, settings, policy, training, tokens.count(DECODE_LOOKUP))
                    yield from _passes(axes, one, variants, taught)


def _passes(axes: Axes, like: Pass, variants: list[tuple[Variant, Trace]], taught: str | None) -> Iterator[Pass]:
    """One pass per kind of limit; in one cache of all layers that counts bytes, one per sizes of experts."""
    found: dict[Any, Pass] = {}
    subject, settings, policy = like.subject, like.settings, like.policy
    for variant, trace in variants:
        for limit in axes.limits(trace, settings):
            in_bytes = not settings.per_layer and limit.budget is not None
            sizes = variant.sizes if in_bytes else None
            one = found.setdefault((in_bytes, sizes), replace(like, in_bytes=in_bytes, sizes=sizes, cells=[]))
            at = _at(limit, trace, policy) if settings.per_layer else (limit.in_all,)
            names = _names(subject, like.batch, settings, policy.label, limit, variant)
            one.cells.append(Cell(_key(names, subject, variant, (policy.mark, taught)), names, limit, at, variant))
    yield from found.values()


def _at(limit: Limit, trace: Trace, policy: ChosenPolicy) -> tuple[int, ...]:
    """Of every layer's cache; more experts than there are make no difference to a stack policy, and one pass serves."""
    each = [limit.for_layer(trace, index) for index in range(trace.moe_layers)]
    stack = isinstance(policy.policy, StackPolicy)
    return tuple(map(min, each, trace.model.experts)) if stack else tuple(each)


def _variant(trace: Trace, run: RunsOn | None, axes: Axes) -> tuple[Variant, Trace]:
    """A variant, and the trace with its sizes."""
    needed_for = "a byte budget" if axes.budgets or axes.shares else ""
    trace, model = sized(trace, settings=axes.settings[0], on=run, needed_for=needed_for)
    return Variant(run, trace.model.expert_bytes, model), trace


def _names(
    subject: Subject, size: int | None, settings: Settings, policy: str, limit: Limit, variant: Variant
) -> dict[str, Any]:
    """The columns that say what a row is about."""
    run, model = variant.run, variant.model
    unit, capacity = next(iter(limit.to_dict(settings.per_layer).items()))
    names = {
        "version": __version__, "trace": subject.name, "batch": size, "policy": policy,
        "scope": settings.scope, "admission": settings.admission, "reset": settings.reset, "phase": settings.phase,
        "warmup": settings.warmup, "capacity_unit": unit, "capacity": capacity,
    }  # fmt: skip
    if run is None or model is None:
        return names | dict.fromkeys(ON_DEVICE)
    place = place_of_misses(run.device, run.misses_from)
    values = (run.device.name, model.name, model.quant, run.overlap, place, run.lanes, run.context, run.compute_ms)
    return names | dict(zip(ON_DEVICE, values, strict=True))


def _key(names: dict[str, Any], subject: Subject, variant: Variant, marks: tuple[Any, ...]) -> str:
    """Hash of the trace's content, of all that was asked for and of the version; the trace's name is no part of it."""
    known = {name: value for name, value in names.items() if name != "trace"}
    about = json.dumps([known, subject.digest, variant.mark, marks], sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()[:32]
