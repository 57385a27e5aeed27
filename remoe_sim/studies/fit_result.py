"""What `fit` answers: a row per model, machine, quantisation and placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import decimal, plural

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.devices.device import Device
    from remoe_sim.devices.estimate_result import Estimate
    from remoe_sim.devices.expected import Kept
    from remoe_sim.models.sizes import SizedModel

SCHEMA = "remoe-sim.fit.v1"
DEVICE, LAYERS, ON_CPU, LINK, STORAGE = "device", "layers", "cache-cpu", "cache-link", "cache-storage"
MAPPED = "mapped"
LIMITS = {
    "dense": "dense weights", "experts": "experts", "storage_wait": "storage", "pcie_wait": "the link",
    "fixed": "fixed times", "cpu": "the CPU", "faults": "page faults",
}  # fmt: skip


def cache_flags(slots: int | None, size: int | None) -> dict[str, str]:
    """Flags by engine card of a cache of that many experts per layer, or bytes, as far as they can be said."""
    found = {}
    if size is not None:
        found["llama.cpp-moe-cache"] = f"--cpu-moe --moe-cache-mib {size // 2**20} --load-mode none"
    if slots is not None:
        found["llama.cpp-moe-expert-cache"] = f"--cpu-moe --moe-expert-cache {slots}"
        found["vllm-expert-cache"] = f"--moe-expert-cache-size {slots}"
    return found


@dataclass(frozen=True)
class FitRow:
    """One way to run a model on a machine.

    placement: `device`, all is there; `layers`, the CPU has the experts of the first `cpu_moe_layers` layers; a cache
    of `slots` experts per layer whose misses the CPU computes (`cache-cpu`), or that come over the link (`cache-link`)
    or from storage (`cache-storage`); a file that is mapped whole and does not fit (`mapped`). device_bytes: of experts
    there; host_bytes: of experts in the host's memory. missing_bytes: of the device and the host together. run: None
    where it does not fit. share: of the lookups that the device has, where no curve says it. reaches: whether the mean
    reaches the target, None without one. first_ms: until the first token after a prompt of `prompt` tokens, None where
    it is not known; price: of the device, if one was given.
    """

    model: SizedModel
    device: Device
    placement: str
    context: int
    kept: Kept
    device_bytes: int
    host_bytes: int
    missing_bytes: int
    short: tuple[str, ...]
    cpu_moe_layers: int | None = None
    slots: int | None = None
    share: float | None = None
    run: Estimate | None = None
    target_ms: float | None = None
    first_ms: float | None = None
    prompt: int = 0
    price: float | None = None

    @property
    def fits(self) -> bool:
        return not self.missing_bytes

    @property
    def tpot_ms(self) -> float | None:
        return None if self.run is None else self.run.tpot_ms

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.run is None else 1e3 / self.run.tpot_ms

    @property
    def reaches(self) -> bool | None:
        if self.target_ms is None:
            return None
        return self.run is not None and self.run.tpot_ms <= self.target_ms

    @property
    def limited_by(self) -> str | None:
        """The largest part of a token's time: a name of `parts_ms`, or `cpu` for experts on the CPU."""
        if self.run is None:
            return None
        if (
            self.placement == MAPPED
            and self.run.faults is not None
            and self.run.faults.seconds * 2e3 > self.run.tpot_ms
        ):
            return "faults"
        parts = self.run.times.parts_ms or {}
        largest = max(parts, key=lambda name: parts[name])
        return "cpu" if largest == "experts" and self.placement in (LAYERS, ON_CPU) else largest

    @property
    def cpu_layers(self) -> int:
        """Layers whose experts the CPU has."""
        return sum(layer < (self.cpu_moe_layers or 0) for layer in self.model.moe_layers)

    @property
    def way(self) -> str:
        """The placement in words."""
        model, slots = self.model, f"a cache of {self.slots} of {self.model.experts} experts per layer"
        return {
            DEVICE: "all on the device",
            LAYERS: f"experts of {self.cpu_layers} of {len(model.moe_layers)} layers on the CPU",
            ON_CPU: f"{slots}, misses on the CPU",
            LINK: f"{slots}, misses over the link",
            STORAGE: f"{slots}, misses from storage",
            MAPPED: "a mapped file, of which memory holds a part",
        }[self.placement]

    @property
    def speed(self) -> str:
        """Tokens per second with the band."""
        if self.run is None:
            return "none"
        band = self.run.band
        return f"{_short(1e3 / self.run.tpot_ms)} ({_short(1e3 / band.high)} to {_short(1e3 / band.low)})"

    @property
    def flags(self) -> list[dict[str, Any]]:
        """The placement as flags of engines, from their documents; nobody has run them."""
        long, model, kind = f"-c {self.context}", self.model, self.device.kind
        given: dict[str, str] = {}
        if self.placement in (DEVICE, MAPPED):
            given = dict.fromkeys(("llama.cpp", "ik_llama.cpp"), f"-ngl 99 {long}")
            if kind == "cuda":
                given["vllm"] = f"--max-model-len {self.context}"
        elif self.placement == LAYERS:
            given = dict.fromkeys(("llama.cpp", "ik_llama.cpp"), f"-ngl 99 --n-cpu-moe {self.cpu_moe_layers} {long}")
            resident = self.device_bytes // max(sum(model.expert_bytes), 1)
            if kind == "cuda":
                given["ktransformers"] = f"--kt-weight-path WEIGHTS --kt-num-gpu-experts {resident}"
        elif self.placement == ON_CPU:
            flags = cache_flags(self.slots, None)["llama.cpp-moe-expert-cache"]
            given["llama.cpp with pull request 27861"] = f"-ngl 99 {flags} {long}"
        elif self.placement == LINK:
            of_cache = cache_flags(self.slots, self.device_bytes)
            given["llama.cpp"] = f"-ngl 99 {of_cache['llama.cpp-moe-cache']} {long}"
            if kind == "cuda":
                given["vllm with pull request 37190"] = (
                    f"{of_cache['vllm-expert-cache']} --max-model-len {self.context}"
                )
        return [{"engine": name, "flags": text, "tested": False} for name, text in given.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        run = self.run
        found = None if run is None else run.expected
        hits = self.share if run is None or (found is None and self.placement != MAPPED) else run.hit_rate
        return {
            "model": self.model.name,
            "quant": self.model.quant,
            "device": self.device.name,
            **self.device.parts,
            "placement": self.placement,
            "cpu_moe_layers": self.cpu_moe_layers,
            "slots_per_layer": self.slots,
            "context": self.context,
            "bytes": {**self.kept.to_dict(), "experts_bytes": self.device_bytes, "host_experts_bytes": self.host_bytes},
            "fits": self.fits,
            "missing_bytes": self.missing_bytes,
            "hit_rate": hits,
            "hit_rate_band": None if found is None else found.to_dict(),
            "tpot_ms": None if run is None else {"mean": run.tpot_ms, "band": run.band.to_dict()},
            "tokens_per_second": self.tokens_per_second,
            "ttft_ms": None if self.first_ms is None else {"mean": self.first_ms, "prompt_tokens": self.prompt},
            "price": self.price,
            "parts_ms": None if run is None else run.times.parts_ms,
            "limited_by": self.limited_by,
            "reaches": self.reaches,
            "flags": self.flags if self.fits else [],
        }


@dataclass(frozen=True, repr=False)
class FitReport(Shown):
    """Rows, the fastest first, those that do not fit last. notes: what nobody has checked, of the fastest."""

    results: tuple[FitRow, ...]
    target_ms: float | None
    notes: tuple[str, ...]

    @property
    def cheapest(self) -> FitRow | None:
        """The device with the lowest price that reaches the target, by its fastest row; None without prices."""
        fitting = [row for row in self.leading if row.price is not None and row.reaches]
        return min(fitting, key=lambda row: (row.price or 0.0, row.tpot_ms or 0.0), default=None)

    def __getitem__(self, index: int) -> FitRow:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    @property
    def leading(self) -> tuple[FitRow, ...]:
        """The first row of each model and machine."""
        found: dict[tuple[str, str], FitRow] = {}
        for row in self.results:
            found.setdefault((row.model.name, row.device.name), row)
        return tuple(found.values())

    @property
    def sentence(self) -> str:
        """The answer in words."""
        best = self[0]
        if not best.fits:
            return f"Nothing fits. {nearest(self.results)}"
        text = (
            f"{best.model.title} in {best.model.quant} on {best.device.name}, {best.way}: {best.speed} tokens/s, "
            f"limited by {LIMITS[str(best.limited_by)]}."
        )
        plain = next((row for row in self.results if _same(row, best) and row.placement == LAYERS and row.fits), None)
        if best.placement == LINK or best.placement == ON_CPU:
            text += "" if plain is None else f" Without a cache, {plain.way}: {plain.speed} tokens/s."
        if self.target_ms is None:
            return text
        goal = f"{_short(1e3 / self.target_ms)} tokens/s"
        models = dict.fromkeys(row.model.name for row in self.results)
        devices = dict.fromkeys(row.device.name for row in self.results)
        leading = self.leading
        if len(leading) > 1:
            many = sum(bool(row.reaches) for row in leading)
            of = "models" if len(devices) == 1 else "devices" if len(models) == 1 else "pairs of model and device"
            text += f" {many} of {len(leading)} {of} reach {goal}."
            if (least := self.cheapest) is not None:
                text += f" The cheapest of these by the prices given is {least.device.name}, at {least.price:,g}."
        elif not best.reaches:
            text += f" That is below {goal}."
        else:
            largest = max((row for row in self.results if row.reaches), key=lambda row: row.model.total_bytes)
            text += f" {goal} {'is' if goal.startswith('1 ') else 'are'} reached up to {largest.model.quant}."
        return text

    def to_dict(self) -> dict[str, Any]:
        """What `remoe-sim fit --json` prints."""
        return {
            **stamp(SCHEMA), "sentence": self.sentence, "target_tpot_ms": self.target_ms,
            "cheapest": None if self.cheapest is None else self.cheapest.device.name,
            "results": [row.to_dict() for row in self.results], "notes": list(self.notes),
        }  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row per placement."""
        import pandas as pd

        rows = []
        for row in self.results:
            values = row.to_dict()
            tpot, hits, sizes = values.pop("tpot_ms"), values.pop("hit_rate_band"), values.pop("bytes")
            first = values.pop("ttft_ms")
            values["ttft_ms"] = None if first is None else first["mean"]
            values["tpot_ms"] = None if tpot is None else tpot["mean"]
            values["tpot_ms_low"], values["tpot_ms_high"] = (
                (None, None) if tpot is None else (tpot["band"]["low"], tpot["band"]["high"])
            )
            values["hit_rate_low"], values["hit_rate_high"] = (hits["low"], hits["high"]) if hits else (None, None)
            values["flags"] = "; ".join(f"{one['engine']}: {one['flags']}" for one in values["flags"])
            parts = values.pop("parts_ms") or {}
            rows.append({**values, **sizes, **{f"{name}_ms": value for name, value in parts.items()}})
        return pd.DataFrame(rows)

    def _sentence(self) -> str:
        return self.sentence


def _same(row: FitRow, other: FitRow) -> bool:
    """Whether both are of one model, quantisation and machine."""
    return row.model is other.model and row.device is other.device


def nearest(rows: Sequence[FitRow]) -> str:
    """The row that misses least, in words."""
    row = min(rows, key=lambda row: row.missing_bytes)
    return f"{row.model.title} in {row.model.quant}, {row.way}: {' and '.join(row.short)}."


def in_gib(row: FitRow) -> str:
    """What the device keeps, in words."""
    parts = {"weights": row.kept.weights + row.kept.head + row.kept.embedding, "KV cache": row.kept.kv_cache,
             "workspace": row.kept.workspace, "experts": row.device_bytes}  # fmt: skip
    told = ", ".join(f"{name} {decimal(size / 2**30)}" for name, size in parts.items())
    host = f"; on the host: experts {decimal(row.host_bytes / 2**30)}" if row.host_bytes else ""
    return f"GiB on the device, at a context of {plural(row.context, 'token')}: {told}{host}"


def _short(rate: float) -> str:
    return f"{rate:,.{2 if rate < 1 else 1 if rate < 20 else 0}f}".removesuffix(".0")
