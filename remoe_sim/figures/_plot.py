"""Every figure that traces and sweeps allow, as files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.trace import Trace
from remoe_sim.util.errors import unknown
from remoe_sim.util.remote import is_url

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("svg", "pdf", "png")
_LONGEST = 120  # letters of a file name
Source = Any  # the path of a trace or sweep, a Trace, or rows of a sweep


@dataclass(frozen=True)
class Plots:
    """files: what was written; left_out: figures that were not possible, and why; notes: what nobody has checked of the
    devices and models whose times are drawn."""

    files: tuple[Path, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        from html import escape

        written = "".join(f"<li>{escape(str(path))}</li>" for path in self.files)
        others = "".join(f"<li>not drawn: {escape(name)}: {escape(why)}</li>" for name, why in self.left_out.items())
        return f"<ul>{written}{others}</ul>"


def plot(
    files: Source | Sequence[Source] | Mapping[str, Source],
    output: str | os.PathLike[str],
    figure: str | Sequence[str] | None = None,
    format: str | Sequence[str] = "svg",
    dark: bool = False,
    layer: int | str | None = None,
    cache: int | str | None = None,
    budget: int | str | None = None,
    **replay: Any,
) -> Plots:
    """Draw every figure that the files allow into the folder `output`, which is made if it is not there.

    files: traces and files of sweeps, as paths, objects or DataFrames; a mapping gives traces their names in legends.
    figure: only these, by the names of `remoe_sim.figures.names()`; format: svg, pdf or png; layer: whose routing is
    shown, the model's own number. cache or budget, and what else `replay` takes (policy, phase, device, model, …), are
    of what has to be replayed: hit rates and regret where no sweep is given, the best split, and, with a device, the
    times of single tokens. Figures of one file each; those with a panel too many go on in further files.

    Raises ValueError if no figure is possible, and like `replay`.
    """
    from remoe_sim.figures import functions
    from remoe_sim.figures._material import NotPossibleError
    from remoe_sim.util.files import told
    from remoe_sim.util.output_places import followed

    all_figures = {name.replace("_", "-"): function for name, function in functions().items()}
    chosen = _several(figure, list(all_figures), "figure") if figure is not None else list(all_figures)
    formats = _several(format, FORMATS, "format")
    material = _material(files, layer, {"cache": cache, "budget": budget}, replay)
    if is_url(output):
        raise ValueError(f"'{output}': figures are written to folders of this machine; name one and copy it then")
    folder = Path(output)
    with told(folder):
        followed(folder).mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    left_out: dict[str, str] = {}
    for name in chosen:
        try:
            for suffix, draw in all_figures[name].pages(material):  # type: ignore[attr-defined]
                stem = _file_name("-".join(filter(None, (name, suffix))))
                try:
                    picture = draw(dark=dark)
                except NotPossibleError as reason:
                    left_out[stem] = str(reason)
                else:
                    written += [_write(picture, folder / f"{stem}.{kind}", kind) for kind in formats]
        except NotPossibleError as reason:
            left_out[name] = str(reason)
    if not written:
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise ValueError(f"no figure is possible: {reasons}")
    return Plots(tuple(written), left_out, _doubts(material))


def _doubts(material: Any) -> tuple[str, ...]:
    from remoe_sim.devices.doubts import of_rows
    from remoe_sim.devices.run import RunsOn

    found = dict.fromkeys(of_rows(material.sweep) if material.sweep is not None else ())
    if (name := material.replay.get("device")) is not None:
        run = RunsOn.of(device=name, model=material.replay.get("model"), quant=material.replay.get("quant"))
        for trace in material.traces.values():
            _, model = run.sized(trace)
            found |= dict.fromkeys((*run.device.unverified, *model.unverified, *model.unknown))
    return tuple(found)


def _file_name(stem: str) -> str:
    """A name without what separates folders, or means something to a shell: a trace may be called anything."""
    return re.sub(r"[/\\<>\"'|?*$&`\x00-\x1f\x7f]+", "-", stem)[:_LONGEST]


def _write(picture: Any, path: Path, kind: str) -> Path:
    """The file, whole or not at all."""
    from remoe_sim.util.files import replacing

    with replacing(path) as beside:
        beside.write_bytes(picture.picture(kind))
    return path


def _several(given: str | Sequence[str], valid: Sequence[str], what: str) -> list[str]:
    """The names that were given; ValueError for one that is not valid."""
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    for name in names:
        if name not in valid:
            raise unknown(what, name, valid)
    return list(dict.fromkeys(names))


def _material(files: Any, layer: Any, limit: Mapping[str, Any], replay: Mapping[str, Any]) -> Any:
    import pandas as pd

    from remoe_sim.figures._material import Material
    from remoe_sim.util.units import parse_count

    if isinstance(files, Mapping):
        named = [(str(name), source) for name, source in files.items()]
    else:
        alone = isinstance(files, Trace | str | os.PathLike | pd.DataFrame)
        named = [("", source) for source in ([files] if alone else files)]
    traces: dict[str, Trace] = {}
    sweeps = []
    for name, source in named:
        rows = source if isinstance(source, pd.DataFrame) else _sweep_rows(source)
        if rows is not None:
            sweeps.append(rows)
            continue
        trace = as_trace(source)
        label = name or _label(source, trace)
        traces[label if label not in traces else f"{label} ({source if trace is not source else len(traces)})"] = trace
    if not named:
        raise ValueError("nothing to draw; give trace files, files of sweeps, or both")
    return Material(
        traces,
        pd.concat(sweeps, ignore_index=True) if sweeps else None,
        {name: value for name, value in replay.items() if value is not None},
        {name: value for name, value in limit.items() if value is not None},
        None if layer is None else parse_count(layer, "layer"),
    )


def _label(source: Any, trace: Trace) -> str:
    if isinstance(source, Trace):
        return (Path(trace.path).stem if trace.path else None) or trace.model.name or "trace"
    return Path(str(source).removeprefix("sample:")).stem


def _sweep_rows(source: Any) -> pd.DataFrame | None:
    """The rows of a file of a sweep; None if it is none, so that reading it as a trace says what is wrong with it."""
    from remoe_sim.studies.sweep.file import MAYBE_UNKNOWN, read_rows

    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return None
    import pandas as pd

    try:
        rows = list(read_rows(Path(source)))
    except ValueError:
        return None
    if not rows:
        return None
    return pd.DataFrame(rows).astype({name: kind for name, kind in MAYBE_UNKNOWN.items() if name in rows[0]})
