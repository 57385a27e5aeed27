"""Traces from other people's files: what a trace format is, and how a file finds the one it is in.

A format is one class in one file of `traces/`, or in a distribution with an entry point in `remoe_sim.traces`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from remoe_sim.errors import TraceError
from remoe_sim.import_source import Given, Source, as_source
from remoe_sim.joining import in_one, join
from remoe_sim.progress import stage
from remoe_sim.registry import find_plugin, plugins
from remoe_sim.request_choice import choose, conditions
from remoe_sim.trace import Trace
from remoe_sim.units import parse_bytes

PACKAGE = "remoe_sim.traces"
Path = str | os.PathLike[str]
Sizes = int | str | Sequence[int | str]


class TraceFormat:
    """One format of recorded routing. `name` is what `--format` takes, `summary` one line, `layout` lines of help.

    words: what files of the format contain near their start; shape: `Source.shape` of its files; both only serve to
    guess when no format fits; directories: whether an input may be a directory.
    """

    kind: ClassVar[str] = "trace format"
    name: ClassVar[str]
    summary: ClassVar[str] = ""
    layout: ClassVar[str] = ""
    words: ClassVar[tuple[str, ...]] = ()
    shape: ClassVar[str] = ""
    directories: ClassVar[bool] = False

    def recognises(self, source: Source) -> bool:
        """Whether the content (`source.head`, `head_text`, `members`, `file_name`) is of this format."""
        raise NotImplementedError(f"trace format '{self.name}' must define recognises(source)")

    def read(self, source: Source) -> Trace:
        """The trace. Assumptions go to `source.note`, faults are raised as `source.error`.

        The caller fills in origin, notes, path, and what the user said in `source.given` of name, quant and sizes.
        """
        raise NotImplementedError(f"trace format '{self.name}' must define read(source)")


def import_trace(
    paths: Path | Iterable[Path],
    *,
    format: str | None = None,
    experts: int | None = None,
    expert_bytes: Sizes | None = None,
    dense_bytes: Sizes | None = None,
    name: str | None = None,
    quant: str | None = None,
    top_k: int | None = None,
    where: str | Iterable[str] | None = None,
) -> Trace:
    """Read a recording in any supported format; several paths or URLs become one trace, each with requests of its own.

    format: its name, or None to recognise it by content. expert_bytes: one size for all MoE layers or one for each;
    dense_bytes: one for all layers or one for each. These, experts, name and quant go before what a file says. top_k:
    experts per token, for the formats that do not say how many there are. where: keep only the requests of which the
    input says this, `has_repetition=false` or `dataset!=gpqa_main`; several must all hold.
    Raises TraceError for a file that cannot be imported, ValueError for a wrong argument.
    """
    given = Given(
        _count("experts", experts, "how many experts each MoE layer has"),
        _sizes("expert_bytes", expert_bytes),
        _sizes("dense_bytes", dense_bytes),
        name,
        quant,
        _count("top_k", top_k, "how many experts are chosen per token"),
    )
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise ValueError("there is nothing to import; give at least one path")
    kept = conditions(where)
    chosen = None if format is None else find_plugin(PACKAGE, TraceFormat, format)()
    read = [_read(as_source(path, given), chosen) for path in listed]
    if kept:
        read = choose(read, kept)
    return read[0][1] if len(read) == 1 else join(read)


def recognise(source: Source) -> TraceFormat:
    """The one format that a file is in; TraceError if there is none, or more than one."""
    formats: list[TraceFormat] = [plugin() for plugin in plugins(PACKAGE, TraceFormat).values()]
    fitting = [format for format in formats if format.recognises(source)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(format.name for format in fitting)
        raise source.error(f"its content fits the formats {names}; choose one with --format")
    names = ", ".join(format.name for format in formats)
    raise source.error(
        f"in none of the known formats ({names}){_nearest(source, formats)}; see 'remoe-sim import --help'"
    )


def _nearest(source: Source, formats: list[TraceFormat]) -> str:
    """A clause that names the format whose shape and words fit best, and the words that are not there."""
    if source.head.startswith(b"PAR1"):
        return "; it is Parquet, and a trace of remoe-sim is used as it is, without importing it"
    text = source.head_text + " ".join(source.members)

    def fit(format: TraceFormat) -> float:
        words = sum(word in text for word in format.words) / max(len(format.words), 1)
        return (format.shape == source.shape) + words + source.file_name.endswith(f".{format.name}") / 4

    best = max(formats, key=fit)
    lacking = ", ".join(word.strip('"') for word in best.words if word not in text)
    if fit(best) < 0.5:
        return ""
    return f"; nearest is {best.name}" + (f", whose files have {lacking}" if lacking else "")


def _read(source: Source, chosen: TraceFormat | None) -> tuple[Source, Trace]:
    format = chosen or recognise(source)
    if source.is_dir and not format.directories:
        raise source.error(f"this is a directory, and the format {format.name} is in files; give the path of one")
    try:
        with stage(f"reading {source.file_name}", source.size, "bytes"):
            trace = format.read(source)
        _check_top_k(trace, source.given.top_k)
        facts = _told(trace, source.given)
        origin = {"format": format.name, "path": source.path.name, "sha256": source.sha256()}
        notes = in_one(source.notes, source.guessed)
        return source, replace(trace, model=replace(trace.model, **facts), origin=origin, notes=notes, path=source.name)
    except TraceError as error:
        if str(error).startswith(source.name):
            raise
        raise source.error(str(error)) from None


def _check_top_k(trace: Trace, given: int | None) -> None:
    found = sorted(set(trace.model.top_k))
    if given is not None and found != [given]:
        slots = " and ".join(map(str, found))
        raise trace.error(f"its decisions have {slots} experts each, not {given}; leave --top-k out or correct it")


def _told(trace: Trace, given: Given) -> dict[str, Any]:
    """The fields of Model that the user gave."""
    model = trace.model
    layers = model.layers or max(trace.layer_numbers) + 1
    facts: dict[str, Any] = {}
    for name, count in (("expert_bytes", trace.moe_layers), ("dense_bytes", layers)):
        sizes = getattr(given, name)
        if sizes is not None:
            facts[name] = sizes * count if len(sizes) == 1 else sizes
            if len(sizes) not in (1, count):
                what = "MoE layers" if name == "expert_bytes" else "layers"
                raise trace.error(f"{name} has {len(sizes)} sizes for {count} {what}; give one, or one for each")
    return facts | {name: getattr(given, name) for name in ("name", "quant") if getattr(given, name) is not None}


def _sizes(name: str, value: Sizes | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    many = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else list(value)
    sizes = tuple(parse_bytes(one) for one in many)
    if not sizes or min(sizes) == 0:
        raise ValueError(
            f"{name} '{value}' holds no size above 0; give one such as 3MiB, or leave it out if it is unknown"
        )
    return sizes


def _count(name: str, given: int | None, what: str) -> int | None:
    if given is not None and given < 1:
        raise ValueError(f"{name} {given} is not possible; give {what}, 1 or more")
    return given
