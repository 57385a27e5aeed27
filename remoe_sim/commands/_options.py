"""Options that several commands have, and what they print about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from remoe_sim.commands._tables import new_table
from remoe_sim.util.units import decimal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from remoe_sim.devices.fits import Fit
    from remoe_sim.devices.run import Timed
    from remoe_sim.devices.what_if import Change
    from remoe_sim.trace.trace import Trace

F = TypeVar("F", bound=Callable[..., Any])

_LIMIT = (
    click.option("--cache", metavar="N", help="Experts per layer (scope layer) or in all (scope global); 0: no cache."),
    click.option(
        "--budget", metavar="SIZE", help="Bytes instead, such as 4000MiB; shared equally by layers under scope layer."
    ),
    click.option("--memory", metavar="SIZE", help="Total device memory; the cache gets what --reserve leaves."),
    click.option(
        "--reserve", default="", metavar="SIZE,…", help="What others take: sizes, or 'dense' for the dense layers."
    ),
)
_POLICY = click.option("--policy", default="lru,lfu,belady", show_default=True, help="Policies, separated by commas.")
_FAST = click.option(
    "--fast-policy", is_flag=True, expose_value=False, callback=lambda ctx, _, given: _fast(ctx, given),
    help="Compile policies of your own without bounds checks.",
)  # fmt: skip
_SCOPE = click.option(
    "--scope", default="layer", show_default=True, metavar="layer|global", help="A cache per layer, or one for all."
)
_SETTINGS = (
    click.option(
        "--admission",
        default="mandatory",
        show_default=True,
        metavar="mandatory|bypass",
        help="Whether what a step needs must enter the cache, or may be computed from a workspace.",
    ),
    click.option(
        "--order",
        default="set",
        show_default=True,
        metavar="set|sequential",
        help="All distinct experts of a step at once, or every slot as an access of its own.",
    ),
    click.option(
        "--reset", default="never", show_default=True, metavar="never|request", help="When the cache is emptied."
    ),
    click.option(
        "--phase", default="all", show_default=True, metavar="all|decode|prefill", help="Which tokens are replayed."
    ),
    click.option(
        "--warmup",
        default="0",
        metavar="N",
        help="Replay the first N decode tokens (of each request when reset) uncounted.",
    ),
    click.option("--train", metavar="TRACE", help="What policies such as static learn from."),
    click.option("--preload", metavar="TRACE", help="Start with the most used experts of another trace."),
    click.option(
        "--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer, if the trace has none."
    ),
)

_BATCH = (
    click.option("--batch", "size", metavar="B", help="Run B requests at once: steps are scheduled anew."),
    click.option("--prefill-chunk", metavar="N", help="Split prompts into chunks of N tokens that share decode steps."),
    click.option("--draft", metavar="N", help="Verify N drafts per decode step, all accepted: an upper bound."),
    click.option("--accept", metavar="P", help="Accept each draft with this probability until the first rejection."),
    click.option("--arrival", metavar="trace|random", help="In which order requests arrive; trace if not given."),
    click.option("--seed", metavar="N", help="Of --arrival random and --accept; 0 if not given."),
)


def _fast(ctx: click.Context, given: bool) -> None:
    """What `--fast-policy` does until the command ends."""
    if given:
        from remoe_sim.policy.guard import fast_policy

        ctx.with_resource(fast_policy())


def fast_option(function: F) -> F:
    """The option of every command that takes policies."""
    return _with(function, _FAST)


def _limit_memory(_: click.Context, __: click.Parameter, size: str | None) -> None:
    from remoe_sim.util.memory import limit_memory

    limit_memory(size)


_MEMORY = click.option(
    "--memory-limit",
    metavar="SIZE",
    expose_value=False,
    callback=_limit_memory,
    help="Memory of this process, such as 4GiB: fewer layers are held side by side; what is available if not given.",
)


def memory_option(function: F) -> F:
    """How much memory the process may take; the same as `remoe_sim.limit_memory`."""
    return _with(function, _MEMORY)


def limit_options(function: F) -> F:
    """The options that limit a cache."""
    return _with(function, *_LIMIT)


def scope_option(function: F) -> F:
    """Whether layers share a cache."""
    return _with(function, _SCOPE)


def setting_options(function: F) -> F:
    """The options that say how a trace is replayed, but for policies and scope."""
    return _with(function, *_SETTINGS)


def replay_options(function: F) -> F:
    """The options that say how a trace is replayed, in the order of --help."""
    return _with(function, _POLICY, _FAST, _SCOPE, *_SETTINGS)


def batch_options(function: F) -> F:
    """The options that schedule the steps of a trace anew; `scheduled` carries them out."""
    return _with(function, *_BATCH)


def schedule_options(function: F) -> F:
    """`batch_options` without the number of requests, for a command that has several."""
    return _with(function, *_BATCH[1:])


def schedule_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Takes what `batch_options` gave out of `arguments`; options that were not given are left out."""
    names = ("size", "prefill_chunk", "draft", "accept", "arrival", "seed")
    values = {name: arguments.pop(name, None) for name in names}
    given = {name: value for name, value in values.items() if value is not None}
    if "seed" in given and "accept" not in given and given.get("arrival") != "random":
        raise ValueError("a seed without chance changes nothing; give it with --arrival random or --accept")
    return given


def scheduled(arguments: dict[str, Any]) -> Trace:
    """Takes the trace and what `batch_options` gave out of `arguments`; the trace, scheduled anew if any was given."""
    import remoe_sim

    trace = remoe_sim.read_trace(arguments.pop("trace"))
    given = schedule_arguments(arguments)
    return remoe_sim.batch(trace, **given) if given else trace


def schedule_in_words(schedule: dict[str, Any]) -> str:
    """One line about the `schedule` of a trace that was scheduled anew."""
    parts = [f"batch {schedule['batch']}"]
    if schedule["prefill_chunk"] is not None:
        parts.append(f"prompts in chunks of {schedule['prefill_chunk']}")
    if schedule["draft"]:
        share = (
            "all accepted" if schedule["accept"] is None else f"each accepted with probability {schedule['accept']:g}"
        )
        parts.append(f"draft {schedule['draft']}, {share} (upper bound)")
    parts.append(f"arrival {schedule['arrival']}")
    return "steps scheduled anew: " + ", ".join(parts)


def _with(function: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def print_json(value: Any) -> None:
    """JSON on stdout; a number that JSON has no word for is a defect."""
    import json

    click.echo(json.dumps(value, indent=2, allow_nan=False))


def note(sentence: str) -> None:
    """A remark on stderr that is no error."""
    click.echo(f"remoe-sim: {sentence}", err=True)


_DRIVEN_OPTIONS = (
    click.option(
        "--admission",
        default="mandatory",
        show_default=True,
        metavar="mandatory|bypass",
        help="Whether what a step needs must enter, or may be computed from a workspace.",
    ),
    click.option(
        "--reset", default="never", show_default=True, metavar="never|request", help="When everything is emptied."
    ),
    click.option(
        "--phase", default="all", show_default=True, metavar="all|decode|prefill", help="Which tokens are replayed."
    ),
    click.option(
        "--warmup",
        default="0",
        metavar="N",
        help="Replay the first N decode tokens (of each request when reset) uncounted.",
    ),
    click.option(
        "--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer, if the trace has none."
    ),
)


def driven_options(function: F) -> F:
    """The options that say how a trace is replayed."""
    for option in reversed(_DRIVEN_OPTIONS):
        function = option(function)
    return function


def sized(amount: float | None, factor: int) -> str:
    """An amount of bytes in units of `factor`."""
    return "unknown" if amount is None else decimal(amount / factor, 1)


LOGGED_STEPS = 24  # in a timeline file

_QUANT = click.option("--quant", metavar="NAME", help="Quantisation, such as q4_k_m; bf16 if nothing else is known.")
_MEASURED_TPOT = click.option(
    "--measured-tpot", metavar="TIME", help="What a token took on this machine, such as 55ms; scales modelled times."
)
_MEASURED = (
    click.option("--lanes", metavar="N", help="Reads in flight on that link, if not the device's own number."),
    click.option("--compute-ms", metavar="X", help="A measured computing time per token instead of the modelled one."),
)
_PARTS = (
    click.option("--host", metavar="NAME", help="Its host: of 'list hosts', or a card of your own."),
    click.option("--storage", metavar="NAME", help="Its storage: of 'list storage', or a card of your own."),
    click.option("--engine", metavar="NAME", help="What runs the model and caches: of 'list engines', or a card."),
)
_DEVICE_OPTIONS = (
    *_PARTS,
    _QUANT,
    click.option(
        "--overlap",
        metavar="none|layer|prefetch",
        help="Load then compute; compute hits while misses stream (layer, if not given); or all misses foreseen one "
        "layer ahead.",
    ),
    click.option(
        "--misses-from",
        metavar="host|storage|cpu",
        help="Read from host memory or storage, or computed by the CPU; host if the device has a link from it.",
    ),
    click.option("--cpu-share", metavar="S|auto", help="Misses that the CPU computes while others are uploaded."),
    click.option("--cpu-moe-layers", metavar="N", help="The CPU has the experts of the first N layers (--n-cpu-moe)."),
    click.option("--gpu-moe-layers", metavar="N", help="The device has the experts of the last N MoE layers."),
    *_MEASURED,
)
_TIMELINE = click.option(
    "--timeline", metavar="FILE", help="Write the first steps as a Chrome trace, which Perfetto opens."
)


def driven_device_options(*own: Any) -> Callable[[F], F]:
    """--device, and what goes with it where a command itself knows what is read when; `own` are the command's own."""
    options: tuple[Any, ...] = (
        click.option("--device", metavar="NAME", help="Also say how long it takes: of 'list devices', or a card."),
        click.option("--model", metavar="NAME", help="Whose sizes, if the trace does not tell: as in 'list models'."),
        click.option("--context", metavar="N", help="Tokens of context that attention reads, instead of the trace's."),
        *_PARTS,
        _QUANT,
        *own,
        *_MEASURED,
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def timing_options(function: F) -> F:
    """The options that go with --device and --model."""
    for option in reversed(_DEVICE_OPTIONS):
        function = option(function)
    return function


def device_options(function: F) -> F:
    """`timing_options` and the file of a timeline."""
    return timing_options(_TIMELINE(function))


_RESIDENCY = (
    click.option(
        "--residency",
        metavar="cached|resident|mapped",
        help="Experts in the cache (if not given), all weights in memory, or a mapped file that faults.",
    ),
    click.option("--page-rule", metavar="lru|two-list", help="Which pages of a mapped file stay; lru if not given."),
    click.option("--page-memory", metavar="SIZE", help="Of the page cache; what the device has left if not given."),
    click.option("--fault-threads", metavar="N", help="Threads of the engine that fault side by side; 1."),
)


def residency_options(function: F) -> F:
    """Where weights are: in a cache, all in memory, or in the pages of a mapped file."""
    return _with(function, *_RESIDENCY)


def measured_option(function: F) -> F:
    """--measured-tpot."""
    return _MEASURED_TPOT(function)


def note_all(sentences: tuple[str, ...]) -> None:
    """What nobody has checked or what is not known, on stderr."""
    for sentence in dict.fromkeys(sentences):
        note(sentence)


DOES_NOT_FIT = MISSED = 3  # exit code under --strict, of what does not fit and of a target that nothing reaches

_STRICT = click.option("--strict", is_flag=True, help="Exit code 3 if it does not fit, or misses its target.")


def strict_option(function: F) -> F:
    """Whether what does not fit in memory is an error; `end_of` tells."""
    return _with(function, _STRICT)


def end_of(fits: Iterable[Fit | None], strict: bool) -> None:
    """Say on stderr what does not fit in memory; where that is an error, the command ends."""
    short = tuple(one.note for one in fits if one is not None and one.note)
    note_all(short)
    if short and strict:
        click.get_current_context().exit(DOES_NOT_FIT)


def show_times(console: Console, times: list[tuple[str, Timed]], reads: str = "misses") -> None:
    """Modelled times: what runs where, where `reads` come from, a line per answer, and the time to the first token."""

    first = times[0][1]
    place = "computed by the CPU" if first.costs.misses_from == "cpu" else f"read from {first.costs.misses_from}"
    console.print(
        f"{first.model.title} {first.model.quant} on {first.run.device.title}: {reads} {place}, overlap "
        f"{first.run.overlap}",
        soft_wrap=True,
    )
    rows = [(label, timed.times.parts_ms) for label, timed in times]
    if any(parts for _, parts in rows):
        console.print(parts_table("modelled ms, decode", [(label, parts) for label, parts in rows if parts]))
    table = new_table("", "p50 ms", "p95 ms", "p99 ms", "tokens/s", "TTFT ms, mean")
    for label, timed in times:
        tpot, ttft, rate = timed.times.tpot_ms, timed.times.ttft_ms, timed.times.tokens_per_second
        table.add_row(
            label,
            *(f"{tpot[name]:,.2f}" if tpot else "" for name in ("p50", "p95", "p99")),
            f"{rate:,.2f}" if rate else "",
            f"{ttft['mean']:,.1f}" if ttft else "",
        )
    console.print(table)
    for label, timed in times:
        if timed.band is not None and timed.times.tpot_ms:
            console.print(f"{label}: {timed.times.tpot_ms['mean']:,.2f} ms, {timed.band.sentence}", soft_wrap=True)


def changes_table(changes: Sequence[Change]) -> Table:
    """What each change of a machine would buy."""
    table = new_table("what if", "TPOT ms", "change", "tok/s")
    for one in changes:
        table.add_row(
            one.change, f"{one.tpot_ms:,.2f}", f"{one.change_percent:+.1f} %", f"{one.tokens_per_second:,.2f}"
        )
    return table


def parts_table(heading: str, rows: list[tuple[str, dict[str, float]]], rates: list[float] | None = None) -> Table:
    """Milliseconds per cause and token, one row for each answer, with tokens per second if they are given."""
    more = ("tok/s",) if rates else ()
    table = new_table(heading, "TPOT", *more, "dense", "experts", "storage", "PCIe", "fixed", gap=1)
    for number, (label, parts) in enumerate(rows):
        shown = [sum(parts.values()), *([rates[number]] if rates else []), *parts.values()]
        table.add_row(label, *(f"{value:,.2f}" for value in shown))
    return table
