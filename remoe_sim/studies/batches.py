"""What batching does to a cache: distinct experts per step, hit rate and bytes at several batch sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.cache.replay import replay
from remoe_sim.cache.results import ReplayResult, describe
from remoe_sim.trace.accesses import Tokens, layer_blocks, select_tokens
from remoe_sim.trace.holdings import of_decisions
from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.schedule import Schedule, batch
from remoe_sim.trace.trace import Decisions, Trace, TraceLike
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.threads import map_layers
from remoe_sim.util.units import parse_range, rate

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.batches.v1"
DEFAULT_SIZES = (1, 2, 4, 8)
MOST_SIZES = 1000  # each is a replay of the whole trace


@dataclass(frozen=True)
class Groups:
    """The distinct experts that decode tokens of a step want at a layer, over all such steps and layers.

    steps, tokens: decode steps and their decode tokens; groups: pairs of a decode step and a layer where at least one
    expert is wanted; distinct: distinct experts of all groups. The same if every token chose its k experts uniformly at
    random, E (1 − (1 − k/E)^tokens): uniform, with the tokens of each group, and uniform_full, with the tokens of a
    full batch; both are sums over groups.
    """

    steps: int
    tokens: int
    groups: int
    distinct: int
    uniform: float
    uniform_full: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "decode_steps": self.steps,
            "decode_tokens": self.tokens,
            "tokens_per_step": rate(self.tokens, self.steps),
            "groups": self.groups,
            "distinct_experts": self.distinct,
            "experts_per_group": rate(self.distinct, self.groups),
            "uniform_experts_per_group": None if not self.groups else self.uniform / self.groups,
            "uniform_experts_per_full_group": None if not self.groups else self.uniform_full / self.groups,
            "lookups_per_token": rate(self.distinct, self.tokens),
        }


@dataclass(frozen=True)
class BatchResult:
    """One batch size: all its steps, the groups of its decode steps, and a replay for each policy."""

    batch: int
    steps: int
    groups: Groups
    results: tuple[ReplayResult, ...]

    def __getitem__(self, policy: str) -> ReplayResult:
        for result in self.results:
            if result.policy == policy:
                return result
        raise KeyError(policy)

    def to_dict(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "steps": self.steps,
            **self.groups.to_dict(),
            "results": [result.to_dict() for result in self.results],
        }


@dataclass(frozen=True, repr=False)
class BatchReport(Shown):
    """The answers of `batches`, in the order of the sizes; `schedule` is what all of them have in common."""

    trace: dict[str, Any]
    schedule: dict[str, Any]
    batches: tuple[BatchResult, ...]

    def __getitem__(self, size: int) -> BatchResult:
        for result in self.batches:
            if result.batch == size:
                return result
        raise KeyError(size)

    def __iter__(self) -> Iterator[BatchResult]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim batches --json` prints."""
        batches = [result.to_dict() for result in self.batches]
        return {**stamp(SCHEMA), "trace": self.trace, "schedule": self.schedule, "batches": batches}

    def to_frame(self) -> pd.DataFrame:
        """One row per batch size and policy, with the counts of decode lookups."""
        import pandas as pd

        rows = []
        for one in self.batches:
            for result in one.results:
                decode = result.decode
                rows.append(
                    {
                        "batch": one.batch,
                        **one.groups.to_dict(),
                        "policy": result.policy,
                        "lookups": decode.lookups,
                        "hits": decode.hits,
                        "hit_rate": decode.hit_rate,
                        "bytes_read": decode.bytes_read,
                        "bytes_read_per_token": result.bytes_read_per_token,
                    }
                )
        return pd.DataFrame(rows)


def batches(
    trace: TraceLike,
    sizes: int | str | Sequence[int | str] = DEFAULT_SIZES,
    prefill_chunk: int | str | None = None,
    draft: int | str = 0,
    accept: float | str | None = None,
    arrival: str = "trace",
    seed: int | str = 0,
    **arguments: Any,
) -> BatchReport:
    """Replay a trace at several batch sizes, and compare the distinct experts per step with uniform routing.

    sizes: requests at once, numbers or text such as "1,2,4,8" or "2:16:2". The next five are those of `batch`, which
    schedules the steps of each size; all others (cache=8, policy="lru,belady", …) are those of `replay`.

    Raises ValueError and TraceError as these two do.
    """
    numbers = _numbers(sizes)
    schedules = [Schedule.of(number, prefill_chunk, draft, accept, arrival, seed) for number in numbers]
    trace = as_trace(trace)
    common = {name: value for name, value in schedules[0].to_dict().items() if name != "batch"}
    done = []
    for schedule in schedules:
        scheduled = batch(trace, schedule.batch, prefill_chunk, draft, accept, arrival, seed)
        report = replay(scheduled, **arguments)
        steps = int(scheduled.step[-1]) + 1 if scheduled.tokens else 0
        full = schedule.batch * (schedule.draft + 1)
        done.append(BatchResult(schedule.batch, steps, decode_groups(scheduled, full), report.results))
    return BatchReport(describe(trace), common, tuple(done))


def _numbers(sizes: Any) -> list[int]:
    """Batch sizes as given, each once; ValueError if there are none."""
    given: list[Any] = sizes.split(",") if isinstance(sizes, str) else list(np.atleast_1d(np.array(sizes, object)))
    numbers = list(dict.fromkeys(number for one in given for number in parse_range(one, "batch", 1)))
    if not 0 < len(numbers) <= MOST_SIZES:
        many = "no batch size is given" if not numbers else f"{len(numbers)} batch sizes are given"
        raise ValueError(f"{many}; give 1 to {MOST_SIZES}, such as 1,2,4,8")
    return numbers


def decode_groups(trace: Trace, full: int) -> Groups:
    """Counts of the groups that decode tokens make; `full` is the number of tokens of a full step."""
    tokens = select_tokens(trace, "decode")

    def one_layer(index: int) -> tuple[int, int, float, float]:
        decisions, experts = trace.decisions(index), trace.model.experts[index]
        blocks = layer_blocks(experts, decisions, tokens, "set")
        wanting = _tokens_per_group(decisions, tokens)
        missed = 1 - trace.model.top_k[index] / experts  # the chance that a token leaves an expert alone
        uniform = experts * (wanting.size - float(np.sum(missed**wanting)))
        return wanting.size, int(blocks.offsets[-1]), uniform, wanting.size * experts * (1 - missed**full)

    layers = list(map_layers(one_layer, trace.moe_layers, of_decisions(trace) * 2))
    return Groups(
        steps=tokens.n_steps,
        tokens=tokens.kinds.size,
        groups=sum(layer[0] for layer in layers),
        distinct=sum(layer[1] for layer in layers),
        uniform=sum(layer[2] for layer in layers),
        uniform_full=sum(layer[3] for layer in layers),
    )


def _tokens_per_group(decisions: Decisions, tokens: Tokens) -> npt.NDArray[np.int64]:
    """int64[groups]: how many tokens of a step want an expert, for steps where any does."""
    if decisions.valid is None:
        return np.diff(tokens.starts)
    wants = decisions.valid[slice(None) if tokens.rows is None else tokens.rows].any(axis=1)
    counts = np.diff(np.append(0, np.cumsum(wants))[tokens.starts])
    return counts[counts > 0]
