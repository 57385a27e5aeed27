"""Trace formats: how one reads or writes other programs' files, and `import_trace` and `export`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.columns import parse_columns
from remoe_sim.formats.join import choose, conditions, in_one, join
from remoe_sim.formats.refusal import refuse
from remoe_sim.formats.sized import find_sized, with_sizes_of
from remoe_sim.formats.source import Given, Source, as_source
from remoe_sim.trace.schedule import steps_of
from remoe_sim.trace.trace import PHASES, Decisions, InMemory, Model, Trace, TraceLike
from remoe_sim.util.errors import TraceError
from remoe_sim.util.plugins import find_plugin, plugin_file, plugins
from remoe_sim.util.progress import stage
from remoe_sim.util.units import asked_bytes, parse_count

if TYPE_CHECKING:
    from remoe_sim.models.sizes import SizedModel


class ExportFormat:
    """One format. `name` is what `--format` takes, `suffix` that of its files, `summary` one line, lost: what of a
    trace its files cannot hold."""

    kind: ClassVar[str] = "export format"
    name: ClassVar[str]
    suffix: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    lost: ClassVar[str] = ""

    def write(self, trace: Trace, path: Path) -> None:
        """Write the file; TraceError if this trace cannot be written so."""
        raise NotImplementedError(f"export format '{self.name}' must define write(trace, path)")


def has_weights(trace: Trace) -> bool:
    """Whether any layer has gate weights."""
    return any(trace.source.weights(index) is not None for index in range(trace.moe_layers))


def slots_there(part: Trace, index: int, first: int, name: str) -> npt.NDArray[np.bool_]:
    """Where the slots [tokens, k] of a layer have an expert.

    part: rows from `first` on of a trace. Raises TraceError where a token was routed but has no expert, which `name`
    cannot tell from a token that was not routed.
    """
    decisions = part.source.decisions(index)
    there = np.ones(decisions.experts.shape, np.bool_) if decisions.valid is None else decisions.valid
    routed = np.ones(len(there), np.bool_) if decisions.routed is None else decisions.routed
    lost = np.flatnonzero(routed & ~there.any(axis=1))
    if lost.size:
        text = f"all slots of this decision are null, and {name} cannot tell it from a token that was not routed there"
        place = f"row {first + int(lost[0])}, column '{part.column(index)}'"
        raise part.error(f"{place}: {text}; replay the trace as it is, or leave the row out")
    return there & routed[:, None]


def export(
    trace: TraceLike,
    path: str | os.PathLike[str],
    format: str | None = None,
    layer: int | str | None = None,
) -> ExportFormat:
    """Write a trace as plain CSV, plain npz, or libCacheSim's oracleGeneral; the file appears whole or not at all.

    format: `csv`, `npz` or `oracle-general`; by the suffix of the path (.csv, .npz, .oracleGeneral) if not given.
    layer: the model's own number of the one layer to write; all without it. Returns the format. Raises ValueError for
    an unknown format, TraceError for a layer that is not there and for a trace that the format cannot hold.
    """
    from remoe_sim.trace.reader import as_trace
    from remoe_sim.util.files import replacing

    chosen = _format(Path(path), format)
    trace = as_trace(trace)
    if layer is not None:
        trace = _one_layer(trace, parse_count(layer, "layer"))
    with replacing(path) as beside:
        chosen.write(trace, beside)
    return chosen


def _format(path: Path, name: str | None) -> ExportFormat:
    found: ExportFormat
    if name is not None:
        found = find_plugin(PACKAGE, ExportFormat, name)()
        return found
    known = plugins(PACKAGE, ExportFormat)
    for format in known.values():
        if path.suffix.lower() == format.suffix.lower():
            found = format()
            return found
    suffixes = ", ".join(format.suffix for format in known.values())
    raise ValueError(f"'{path}' has no suffix of a format ({suffixes}); give one, or name the format with --format")


def _one_layer(trace: Trace, number: int) -> Trace:
    if number not in trace.layer_numbers:
        numbers = ", ".join(map(str, trace.layer_numbers))
        raise trace.error(f"there is no MoE layer {number}; its layers are {numbers}")
    index = trace.layer_numbers.index(number)
    decisions: Decisions = trace.decisions(index)
    model = trace.model
    sizes = None if model.expert_bytes is None else (model.expert_bytes[index],)
    return replace(
        trace,
        layer_numbers=(number,),
        model=replace(model, experts=(model.experts[index],), top_k=(model.top_k[index],), expert_bytes=sizes),
        source=InMemory([decisions], [trace.source.weights(index)]),
    )


PACKAGE = "remoe_sim.traces"
Input = str | os.PathLike[str]
Sizes = int | str | Sequence[int | str]


class TraceFormat:
    """One format of recorded routing. `name` is what `--format` takes, `summary` one line, `layout` lines of help.

    words: what files of the format contain near their start; shape: `Source.shape` of its files; both only serve
    to name the nearest ones when no format fits; directories: whether an input may be a directory; general: whether
    its files are of another format where that recognises them, too.
    writer, kept, lost: for the table of formats, who writes such files, what a trace keeps of them, and what it loses
    or assumes; sure: what the layout is known from.
    """

    kind: ClassVar[str] = "trace format"
    name: ClassVar[str]
    summary: ClassVar[str] = ""
    layout: ClassVar[str] = ""
    words: ClassVar[tuple[str, ...]] = ()
    shape: ClassVar[str] = ""
    directories: ClassVar[bool] = False
    general: ClassVar[bool] = False
    writer: ClassVar[str] = ""
    kept: ClassVar[str] = ""
    lost: ClassVar[str] = ""
    sure: ClassVar[str] = ""

    def recognises(self, source: Source) -> bool:
        """Whether the content (`source.head`, `head_text`, `members`, `file_name`) is of this format."""
        raise NotImplementedError(f"trace format '{self.name}' must define recognises(source)")

    def read(self, source: Source) -> Trace:
        """The trace. Assumptions go to `source.note`, faults are raised as `source.error`.

        The caller fills in origin, notes, path, and what the user said in `source.given` of name, quant and sizes.
        """
        raise NotImplementedError(f"trace format '{self.name}' must define read(source)")


def import_trace(
    paths: Input | Iterable[Input],
    *,
    format: str | None = None,
    experts: int | None = None,
    expert_bytes: Sizes | None = None,
    dense_bytes: Sizes | None = None,
    name: str | None = None,
    quant: str | None = None,
    top_k: int | None = None,
    where: str | Iterable[str] | None = None,
    columns: str | Mapping[str, str | Sequence[str]] | None = None,
    phase: str | None = None,
    axes: str | Sequence[str] | None = None,
    moe_layers: int | None = None,
    model: str | os.PathLike[str] | None = None,
) -> Trace:
    """Read a recording in any supported format; several paths or URLs become one trace, each with requests of its own.

    format: its name, or None to recognise it by content. expert_bytes: one size for all MoE layers or one for each;
    dense_bytes: one for all layers or one for each. These, experts, name and quant go before what a file says. top_k:
    experts per token, for the formats that do not say how many there are. where: keep only the requests of which the
    input says this, `has_repetition=false` or `dataset!=gpqa_main`; several must all hold. columns: what the columns
    of a table are, where their names do not say it, `position=when,layer=l,experts=chosen`, or the names of all of
    them. phase: `prefill` or `decode` of all tokens. axes: the axes of an array, such as `layers,tokens,k`.
    moe_layers: how many MoE layers the model has, which tells axes apart. model: a name of 'remoe-sim list models', a
    card, config.json or GGUF file, which says experts and layers and, with quant or of a GGUF file, sizes.
    Raises TraceError for a file that cannot be imported, ValueError for a wrong argument.
    """
    known = find_sized(model, quant) if model is not None else None
    if known is not None and not isinstance(known, Model):
        experts, moe_layers = experts or known.experts, moe_layers or len(known.moe_layers)
    given = Given(
        _count("experts", experts, "how many experts each MoE layer has"),
        parse_sizes("expert_bytes", expert_bytes),
        parse_sizes("dense_bytes", dense_bytes),
        name,
        quant,
        _count("top_k", top_k, "how many experts are chosen per token"),
        parse_columns(columns),
        _phase(phase),
        _axes(axes),
        _count("moe_layers", moe_layers, "how many MoE layers the model has"),
    )
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise ValueError("there is nothing to import; give at least one path")
    kept = conditions(where)
    chosen = None if format is None else find_format(format)
    read = [_read(as_source(path, given), chosen) for path in listed]
    if kept:
        read = choose(read, kept)
    trace = read[0][1] if len(read) == 1 else join(read)
    return trace if known is None else _of_model(trace, known, given)


def _of_model(trace: Trace, known: SizedModel | Model, given: Given) -> Trace:
    """The trace with what a model says; sizes and a name that the user gave go before."""
    sized = with_sizes_of(trace, known)
    about = replace(sized.model, **(_told(sized, given) | {"quant": sized.model.quant}))
    notes = sized.notes
    if about.expert_bytes is None:
        text = f"sizes of {about.name} not filled in, because they are those of a quantisation (--quant NAME)"
        notes = "; ".join(filter(None, (notes, text)))
    return replace(sized, model=about, notes=notes)


def find_format(name: str) -> TraceFormat:
    """The format of a name, or in a Python file that defines one; ValueError with all valid names."""
    found: TraceFormat
    if name.endswith(".py"):
        found = plugin_file(name, TraceFormat, "TraceFormat")()
    else:
        found = find_plugin(PACKAGE, TraceFormat, name)()
    return found


def recognise(source: Source) -> TraceFormat:
    """The one format that a file is in; TraceError if there is none, or more than one."""
    formats: list[TraceFormat] = [plugin() for plugin in plugins(PACKAGE, TraceFormat).values()]
    fitting = fitting_formats(source, formats)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(format.name for format in fitting)
        raise source.error(f"its content fits the formats {names}; choose one with --format")
    raise refuse(source, formats)


def fitting_formats(source: Source, formats: Sequence[TraceFormat]) -> list[TraceFormat]:
    """The formats whose files look like this one: special ones before general ones, unless the user names columns."""
    fitting = [format for format in formats if format.recognises(source)]
    general = bool(source.given.columns)
    first = [format for format in fitting if format.general == general]
    return first or fitting


def _read(source: Source, chosen: TraceFormat | None) -> tuple[Source, Trace]:
    format = chosen or recognise(source)
    if source.is_dir and not format.directories:
        raise source.error(f"this is a directory, and the format {format.name} is in files; give the path of one")
    try:
        with stage(f"reading {source.file_name}", source.size, "bytes"):
            trace = format.read(source)
        _check_top_k(trace, source.given.top_k)
        trace = _of_phase(trace, source.given.phase)
        source.notes += _doubts(trace)
        facts = _told(trace, source.given)
        origin = {"format": format.name, "path": source.path.name, "sha256": source.sha256()}
        notes = in_one(source.notes, source.guessed)
        return source, replace(trace, model=replace(trace.model, **facts), origin=origin, notes=notes, path=source.name)
    except TraceError as error:
        if str(error).startswith(source.name):
            raise
        raise source.error(str(error)) from None


_LOOKED_AT = 2**26  # slots of a trace
_ENOUGH = 16  # tokens of which something that is always so means something
_SORTED = "expert ids are sorted in every decision, so their ranks are lost"


def _doubts(trace: Trace) -> list[str]:
    """What the ids of a trace without weights say of how it was recorded, if it is not too large to look: that they
    are sorted, or that an expert is there in every decision, as one that is always computed would be."""
    slots = trace.tokens * sum(trace.model.top_k)
    if not trace.source.resident or trace.tokens < 4 or slots > _LOOKED_AT:
        return []
    layers = [trace.source.decisions(index) for index in range(trace.moe_layers)]
    doubts = []
    weighted = any(trace.source.weights(index) is not None for index in range(trace.moe_layers))
    whole = all(one.valid is None or one.valid.all() for one in layers)
    if not weighted and whole and min(trace.model.top_k) > 1:
        rising = all((np.diff(one.experts.astype(np.int32), axis=1) > 0).all() for one in layers)
        doubts += [_SORTED] if rising else []
    if whole and trace.tokens >= _ENOUGH:
        largest = {int(one.experts.max()) for one in layers}
        always = all((one.experts == one.experts.max()).any(axis=1).all() for one in layers)
        if always and len(largest) == 1 and max(largest) >= max(trace.model.top_k) > 1:
            doubts.append(
                f"expert {largest.pop()} is in every decision of every layer, as a shared expert would be that is "
                "counted behind the routed ones; if it is one, leave it out of the recording"
            )
    return doubts


def _of_phase(trace: Trace, phase: int | None) -> Trace:
    """The trace with the phase that the user gave; steps follow it unless the file has its own."""
    if phase is None or (trace.phase == phase).all():
        return trace
    phases = np.full(trace.tokens, phase, np.uint8)
    derived = np.array_equal(trace.step, steps_of(trace.request, trace.phase))
    return replace(trace, phase=phases, step=steps_of(trace.request, phases) if derived else trace.step)


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


def parse_sizes(name: str, value: Sizes | None) -> tuple[int, ...] | None:
    """Sizes as they are given, one for all layers or one for each; ValueError for what is none."""
    if value is None:
        return None
    many = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else list(value)
    sizes = tuple(asked_bytes(one, name, "MiB") for one in many)
    if not sizes or min(sizes) == 0:
        raise ValueError(
            f"{name} '{value}' holds no size above 0; give one such as 3MiB, or leave it out if it is unknown"
        )
    return sizes


def _phase(given: str | None) -> int | None:
    if given is not None and given not in PHASES:
        raise ValueError(f"phase '{given}' is not possible; give {' or '.join(PHASES)}")
    return None if given is None else PHASES.index(given)


def _axes(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    axes = tuple(one.strip() for one in (given.split(",") if isinstance(given, str) else given))
    if sorted(axes) != ["k", "layers", "tokens"]:
        raise ValueError(
            f"axes '{','.join(axes)}' are not possible; give layers, tokens and k in the order of the file"
        )
    return axes


def _count(name: str, given: int | None, what: str) -> int | None:
    if given is not None and given < 1:
        raise ValueError(f"{name} {given} is not possible; give {what}, 1 or more")
    return given
