"""What there is to draw from, and what a figure makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from remoe_sim.trace.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

Page = tuple[str, Callable[..., Any]]  # what is added to the name of the file, and what draws it when given `dark`
F = TypeVar("F", bound=Callable[..., Any])


class NotPossibleError(ValueError):
    """Why a figure cannot be drawn, and what it takes."""


@dataclass(frozen=True)
class Material:
    """traces: by the names that legends give them; sweep: rows of sweeps, or None.

    replay: the arguments of `replay` that were given (policy, phase, device, …); limit: cache or budget, empty if none;
    layer: whose routing is shown, None for the middle one.
    """

    traces: Mapping[str, Trace]
    sweep: pd.DataFrame | None = None
    replay: Mapping[str, Any] = field(default_factory=dict)
    limit: Mapping[str, Any] = field(default_factory=dict)
    layer: int | None = None

    def need_traces(self) -> Mapping[str, Trace]:
        """The traces; NotPossibleError if there are none."""
        if not self.traces:
            raise NotPossibleError("needs a trace")
        return self.traces

    def need_limit(self) -> Mapping[str, Any]:
        """The limit of a cache; NotPossibleError if none was given."""
        if not self.limit:
            raise NotPossibleError("needs the size of a cache: --cache or --budget")
        return self.limit

    def each_trace(self) -> Iterator[tuple[str, str, Trace]]:
        """What to add to the name of a file, the name, and the trace; nothing is added where there is one trace."""
        traces = self.need_traces()
        for name, trace in traces.items():
            yield "" if len(traces) == 1 else name, name, trace

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The rows of the sweeps, or else the curves of the traces."""
        import pandas as pd

        from remoe_sim.cache.curve import curve

        if self.sweep is not None:
            return self.sweep
        asked = {name: self.replay[name] for name in ("policy", "phase") if name in self.replay}
        frames = [curve(trace, **asked).assign(trace=name) for name, trace in self.need_traces().items()]
        rows = pd.concat(frames, ignore_index=True)
        rows.attrs["capacity_unit"] = frames[0].attrs["capacity_unit"]
        return rows

    def need_sweep(self) -> pd.DataFrame:
        """The rows of the sweeps; NotPossibleError if there are none."""
        if self.sweep is None:
            raise NotPossibleError("needs the file of a sweep")
        return self.sweep


def figure(pages: Callable[[Material], Iterator[Page]]) -> Callable[[F], F]:
    """Marks the function of a figure; `pages` says what it draws from what `plot` was given, or raises
    NotPossibleError."""

    def mark(function: F) -> F:
        function.pages = pages  # type: ignore[attr-defined]
        return function

    return mark


def refuse(reason: Exception, dark: bool = False) -> Any:
    """Draws nothing, for a page that is not possible while others of its figure are."""
    raise NotPossibleError(str(reason)) from reason


def by_name(data: Any, rows: Callable[[Trace], pd.DataFrame]) -> pd.DataFrame:
    """Rows with a column `trace`: of one trace, of several by name, or those that are rows already."""
    import pandas as pd

    if isinstance(data, Trace):
        data = {data.model.name or "trace": data}
    if isinstance(data, Mapping):
        if not data:
            raise NotPossibleError("needs a trace")
        return pd.concat([rows(trace).assign(trace=name) for name, trace in data.items()], ignore_index=True)
    frame: pd.DataFrame = data
    return frame if "trace" in frame else frame.assign(trace="all tokens")


def has_columns(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows, with a label for each content of a trace; ValueError if they lack a column."""
    from remoe_sim.studies.sweep.labels import stem, told_apart

    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"the rows have no column '{missing[0]}'; this figure takes {', '.join(columns)}")
    return told_apart(frame, stem)
