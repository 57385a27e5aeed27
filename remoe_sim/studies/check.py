"""`check`: a measured run next to what `estimate` says of it."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.devices.estimate import DEFAULT_CONTEXT, estimate
from remoe_sim.devices.estimate_result import Estimate
from remoe_sim.models.model import model as find_model
from remoe_sim.util.cards import card_names
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.errors import TraceError
from remoe_sim.util.input_files import ROWS_BYTES, UnsuitableError, read_text
from remoe_sim.util.units import parse_number

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.check.v1"
LIKE = {"ik_llama.cpp": "llama.cpp", "ollama": "llama.cpp"}  # engines without cards of their own
TWO = {"two", "2x"}  # processors
_SPEED = re.compile(r"^\s*([\d.]+)")
_DECODE = re.compile(r"tg(\d+)(?:\s*@\s*d(\d+))?")
Row = dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """One run and its prediction. measured_ms: per token; predicted: at the same placement and context."""

    id: str
    measured_ms: float
    predicted: Estimate

    @property
    def inside(self) -> bool:
        """Whether the run is inside the band."""
        band = self.predicted.band
        return band.low <= self.measured_ms <= band.high

    @property
    def explained_by(self) -> tuple[str, float] | None:
        """The largest part of the predicted time, and how many times as long it would have to be; None if none would
        do."""
        parts = self.predicted.times.parts_ms or {}
        name = max(parts, key=lambda one: parts[one], default=None)
        if name is None or not parts[name]:
            return None
        factor = 1 + (self.measured_ms - self.predicted.tpot_ms) / parts[name]
        return (name, factor) if factor > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        one, why = self.predicted, self.explained_by
        said = one.said
        return {
            "id": self.id, "model": one.model.name, "quant": one.model.quant, "device": one.device.name,
            **one.device.parts, "context": said["context"], "top_k": said["top_k"], "hit_rate": one.hit_rate,
            "cpu_moe_layers": said["cpu_moe_layers"], "gpu_moe_layers": said["gpu_moe_layers"],
            "measured_ms": self.measured_ms, "tokens_per_second": 1e3 / self.measured_ms,
            "tpot_ms": {"mean": one.tpot_ms, "band": one.band.to_dict()}, "inside": self.inside,
            "error": one.tpot_ms / self.measured_ms - 1,
            "explained_by": None if why is None else {"part": why[0], "factor": why[1]},
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class CheckReport(Shown):
    """Runs with their predictions; left_out: names of rows that none can be made for, with the reason."""

    results: tuple[Checked, ...]
    left_out: tuple[tuple[str, str], ...]

    def __getitem__(self, index: int) -> Checked:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    @property
    def inside(self) -> int:
        """Runs inside their bands."""
        return sum(one.inside for one in self.results)

    def to_dict(self) -> dict[str, Any]:
        """What `remoe-sim check --json` prints."""
        left_out = [{"id": name, "reason": reason} for name, reason in self.left_out]
        rows = [one.to_dict() for one in self.results]
        return {**stamp(SCHEMA), "runs": len(rows), "inside": self.inside, "results": rows, "left_out": left_out}

    def measurements(self) -> pd.DataFrame:
        """One row per run in the layout in which measured speeds are kept and given to others."""
        import pandas as pd

        rows = [
            {
                "id": one.id, "device_card": one.predicted.device.name, "host": one.predicted.device.parts["host"],
                "engine": one.predicted.device.parts["engine"], "model": one.predicted.model.name,
                "quant": one.predicted.model.quant, "top_k": one.predicted.said["top_k"],
                "context": one.predicted.said["context"], "cpu_moe_layers": one.predicted.said["cpu_moe_layers"],
                "hit_rate": one.predicted.hit_rate, "tok_s": 1e3 / one.measured_ms,
            }
            for one in self.results
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """One row per run."""
        import pandas as pd

        rows = []
        for row in self.to_dict()["results"]:
            tpot, why = row.pop("tpot_ms"), row.pop("explained_by") or {"part": None, "factor": None}
            band = {"predicted_ms": tpot["mean"], "low": tpot["band"]["low"], "high": tpot["band"]["high"]}
            rows.append({**row, **band, "explained_by": why["part"], "factor": why["factor"]})
        return pd.DataFrame(rows)


def check(
    run: str | os.PathLike[str],
    device: str | None = None,
    host: str | None = None,
    engine: str | None = None,
    model: str | None = None,
    quant: str | None = None,
) -> CheckReport:
    """Compare measured decode speeds with what `estimate` says of them.

    run: what llama-bench writes (JSON, JSON lines, CSV or its Markdown table), answers of llama-server with `timings`,
    what `vllm bench serve` saves (of one request at a time), or a CSV or JSON file with a row per run: model, quant,
    device (or device_card, hardware), and tok_s or tpot_ms; if there are any, id, host, engine, context, top_k,
    cpu_moe_layers (or n_cpu_moe), moe_layers_on_cpu, hit_rate (or hit_rate_pct) and misses_from. The other arguments go
    before what a row says.

    Raises TraceError for a file without such rows, or without any that can be checked.
    """
    results: list[Checked] = []
    left_out: list[tuple[str, str]] = []
    given = {"device": device, "host": host, "engine": engine, "model": model, "quant": quant}
    more: Row = {key: one for key, one in given.items() if one is not None}
    if model is not None:
        more |= {"model_filename": None, "model_type": None}
    for number, row in enumerate(_rows(run), 1):
        name = str(row.get("id") or f"row {number}")
        try:
            if not _is_prompt(row):
                results.append(_checked(name, {**row, **more}))
        except ValueError as error:
            left_out.append((name, str(error)))
    if not results:
        why = f" ({left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise TraceError(
            f"{run}: it has no decode run that can be checked{why}; give what llama-bench writes, or rows with model, "
            "device and tok_s"
        )
    return CheckReport(tuple(results), tuple(left_out))


def _rows(path: str | os.PathLike[str]) -> list[Row]:
    """Rows as dictionaries, whatever they are written in."""
    try:
        text = read_text(path, "", ROWS_BYTES).strip()
    except UnsuitableError as error:
        raise TraceError(f"{path}: it {error.why}") from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8 text"
        raise TraceError(f"{path}: it cannot be read ({why}); give a file of measured runs") from None
    if text[:1] in ("{", "["):
        try:
            found = json.loads(text) if text[0] == "[" or "\n{" not in text else [
                json.loads(line) for line in text.splitlines() if line.strip()
            ]  # fmt: skip
        except (ValueError, RecursionError):
            raise TraceError(f"{path}: it is no JSON and no JSON lines; correct it") from None
        return [_served(row) for row in (found if isinstance(found, list) else [found]) if isinstance(row, dict)]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    if any(line.startswith("|") for line in lines):
        cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
        return [dict(zip(cells[0], row, strict=False)) for row in cells[1:] if set("".join(row)) - set("-: ")]
    try:
        return list(csv.DictReader(lines))
    except csv.Error as error:
        raise TraceError(f"{path}: it is no CSV ({error}); correct it") from None


def _served(row: Row) -> Row:
    """The row of an answer of llama-server, or of a benchmark of vLLM's server; any other as it is.

    Attention reads what came before, and half of what was generated, on average.
    """
    timings = row.get("timings")
    if isinstance(timings, dict):
        before = (_number(timings, "prompt_n") or 0) + (_number(timings, "cache_n") or 0)
        context = before + (_number(timings, "predicted_n") or 0) / 2
        speed = {"tok_s": timings.get("predicted_per_second"), "tpot_ms": timings.get("predicted_per_token_ms")}
        return {"model": row.get("model"), "engine": "llama.cpp", "context": int(context), **speed}
    if "model_id" in row and ("median_tpot_ms" in row or "mean_tpot_ms" in row):
        requests = _number(row, "completed") or 1
        told = (_number(row, "total_input_tokens") or 0) + (_number(row, "total_output_tokens") or 0) / 2
        speed = {"tpot_ms": row.get("median_tpot_ms") or row.get("mean_tpot_ms")}
        side_by_side = {"max_concurrency": row.get("max_concurrency")}
        return {"model": row["model_id"], "engine": "vllm", "context": int(told / requests), **speed, **side_by_side}
    return row


def _is_prompt(row: Row) -> bool:
    """Whether a row of llama-bench is of a prompt."""
    if "n_gen" in row:
        return not int(_number(row, "n_gen") or 0) or bool(_number(row, "n_prompt"))
    return "t/s" in row and _DECODE.match(str(row.get("test", ""))) is None


def _checked(name: str, row: Row) -> Checked:
    if (_number(row, "max_concurrency") or 1) > 1:
        raise ValueError("it served several requests at once, of which no estimate is made; serve one at a time")
    text = str(row.get("model_filename") or row.get("model") or row.get("model_type") or "")
    said = _llama_type(re.split(r"[/\\]", text)[-1] if row.get("model_filename") else text)
    quant = row.get("quant") or None
    measured = _measured(row)
    top_k = _number(row, "top_k")
    sized = find_model(said, None if quant is None else _quant(str(quant)), None if top_k is None else int(top_k))
    layers = _number(row, "cpu_moe_layers", "n_cpu_moe")
    on_cpu, hits = _number(row, "moe_layers_on_cpu"), _number(row, "hit_rate", "hit_rate_pct")
    if hits is not None and hits > 1:
        hits /= 100
    placed: dict[str, Any] = {"hit_rate": 1.0 if hits is None else hits, "misses_from": row.get("misses_from") or None}
    if layers:
        placed = {"cpu_moe_layers": min(int(layers), sized.layers)}
    elif on_cpu:
        placed = {"gpu_moe_layers": max(0, len(sized.moe_layers) - int(on_cpu))}
    engine = next((word for word in str(row.get("engine") or "").split()[:1]), None)
    engine = LIKE.get(str(engine), engine)
    (predicted,) = estimate(
        sized, _device(row), context=_context(row), host=_card("host", row.get("host")),
        engine=engine if engine in card_names("engine") else _own(engine), **placed,
    ).results  # fmt: skip
    return Checked(name, measured, predicted)


def _measured(row: Row) -> float:
    """Milliseconds per token."""
    tpot, rate = _number(row, "tpot_ms"), _number(row, "tok_s", "tokens_per_second", "avg_ts", "t/s")
    if tpot is None and rate:
        tpot = 1e3 / rate
    if not tpot:
        raise ValueError("it says no speed; give tok_s or tpot_ms")
    return tpot


def _context(row: Row) -> int:
    """The mean number of tokens that attention read."""
    context = _number(row, "context")
    if context is not None:
        return int(context)
    found = _DECODE.match(str(row.get("test", "")))
    made, before = (found[1], found[2] or 0) if found else (row.get("n_gen") or 0, row.get("n_depth") or 0)
    return int(before) + int(made) // 2 or DEFAULT_CONTEXT


def _own(engine: str | None) -> str | None:
    """A card of one's own, or the device's default where the engine has no card."""
    return engine if engine is not None and (engine.endswith(".toml") or "/" in engine) else None


def _quant(text: str) -> str:
    return {"mxfp4 moe": "mxfp4_moe"}.get(text.lower(), text)


def _llama_type(text: str) -> str:
    """What llama-bench calls a model, as the name of a file: `qwen3moe 30B.A3B Q4_K - Medium`."""
    name = re.sub(r" - (small|medium|large)", lambda found: f"_{found[1][0]}", text.lower())
    name = re.sub(r"moe (?=\d)", " ", name) if name != text.lower() or " " in name else text
    return re.sub(r"(?<=b)\.(?=a\d)", "-", name.replace(" moe", "_moe")).replace("  ", " ").replace(" ", "-")


def _device(row: Row) -> str:
    """The device's card: as it is named, or the longest whose words are all in what names the hardware."""
    for key in ("device", "device_card", "hardware", "gpu_info"):
        text = str(row.get(key) or "")
        found = text if text.endswith(".toml") or "+" in text else _card("device", text)
        if found is not None:
            return found
    told = next((str(row[key]) for key in ("hardware", "gpu_info", "device_card") if row.get(key)), "none")
    raise ValueError(f"no card for device '{told}'; name one of 'remoe-sim list devices' with --device")


def _card(kind: str, given: Any) -> str | None:
    """The card of a kind that a text means, or None."""
    text = str(given or "").lower()
    if given and (text in card_names(kind) or text.endswith(".toml")):
        return str(given)
    words = set(re.split(r"[^\w.]+", text))
    words |= {"dual"} if words & TWO else set()
    found = [name for name in card_names(kind) if set(name.split("-")) <= words]
    return max(found, key=len, default=None)


def _number(row: Row, *names: str) -> float | None:
    """The first of these entries that is there."""
    for name in names:
        value = row.get(name)
        if value not in (None, ""):
            text = _SPEED.match(str(value))
            if text is None:
                raise ValueError(f"{name} is '{value}'; give a number")
            return parse_number(text[1], name)
    return None
