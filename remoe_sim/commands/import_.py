"""remoe-sim import"""

from __future__ import annotations

import os
from typing import Any

import click

from remoe_sim.commands._options import note

SECTION = "Start"


class ImportCommand(click.Command):
    """Its help ends with the formats and the layouts of the plain ones, which are found when help is asked for."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from remoe_sim.formats.format import PACKAGE, TraceFormat
        from remoe_sim.util.plugins import plugins

        formats = plugins(PACKAGE, TraceFormat)
        with formatter.section("Formats"):
            formatter.write_dl([(name, format.summary) for name, format in formats.items()])
        for name, format in formats.items():
            if format.layout:
                formatter.write(f"\nFormat {name}: {format.layout.strip()}\n")


@click.command("import", cls=ImportCommand)
@click.argument("inputs", nargs=-1, required=True, type=click.Path(), metavar="INPUT...")
@click.option("-o", "--output", required=True, type=click.Path(), help="The trace file to write (Parquet).")
@click.option("--format", metavar="NAME", help="The format of the inputs, or ./mine.py; by content without it.")
@click.option("--columns", metavar="KIND=NAME,...", help="What columns of a table are; or the names of all of them.")
@click.option("--phase", metavar="prefill|decode", help="The phase of all tokens, where an input does not say it.")
@click.option("--axes", metavar="AXES", help="The axes of an array, such as layers,tokens,k.")
@click.option("--experts", type=int, metavar="N", help="Routed experts of each MoE layer.")
@click.option("--top-k", type=int, metavar="N", help="Experts per token, where the format does not say.")
@click.option(
    "--expert-bytes", metavar="SIZE[,SIZE...]", help="Size of one expert, such as 3MiB; or one per MoE layer."
)
@click.option(
    "--dense-bytes", metavar="SIZE[,SIZE...]", help="Size of the rest of a layer; or one per layer of the model."
)
@click.option(
    "--where",
    multiple=True,
    metavar="NAME=VALUE",
    help="Keep only requests of which the input says so; or NAME!=VALUE.",
)
@click.option("--name", help="Name of the model.")
@click.option(
    "--model", metavar="NAME", help="Fill in sizes of a model, with --quant: of 'list models', config.json, GGUF."
)
@click.option("--quant", help="Quantisation of the model, such as Q4_K_M.")
def command(inputs: tuple[str, ...], output: str, **given: Any) -> None:
    """Make a trace from recorded routing in any supported format.

    Inputs are files or URLs, recognised by their content, and may be compressed with gzip or zstd. Several inputs
    become one trace, each with requests of its own; - is the standard input. Options take precedence over what an input
    says.
    Tables (CSV, JSON Lines, Parquet, Arrow, npz) may have columns of many names; --columns names those that are not
    known, by the kinds request, position, phase, layer, experts, rank, weights, step and token_id.
    Inputs of the formats npz and gpt-oss may say something of each request, such as its dataset; --where (several times
    if need be) keeps the requests that it names.

    \b
    Examples:
      remoe-sim import qwen.route.csv -o qwen.parquet
      remoe-sim import monday.csv.gz tuesday.csv.gz -o week.parquet
      remoe-sim import routing.npz -o t.parquet --experts 64 --expert-bytes 3MiB --name my-model
      remoe-sim import routing.npz -o t.parquet --model qwen1.5-moe-a2.7b --quant q4_k_m
      remoe-sim import log.csv -o t.parquet --columns position=when,layer=l,experts=chosen
      remoe-sim import marked.npz -o t.parquet --where has_repetition=false
    """
    from remoe_sim.formats.format import import_trace
    from remoe_sim.util.remote import check_output

    check_output(output)
    for path in inputs:
        if os.path.realpath(path) == os.path.realpath(output):
            raise click.UsageError(f"{output} is an input and would be overwritten; give another path with -o")
    layers = _known_layers(given["name"]) if given["model"] is None else None
    trace = import_trace(inputs, **given, moe_layers=layers)
    write(trace, output)
    click.echo(f"wrote {output}: {describe(trace)}")
    if trace.notes:
        note(f"assumed: {trace.notes}")


def _known_layers(name: str | None) -> int | None:
    """How many MoE layers the model of a name has, None for a model that is not known."""
    from remoe_sim.models.model import model
    from remoe_sim.util.cards import card_names

    return len(model(name).moe_layers) if name in card_names("model") else None


def write(trace: Any, output: str) -> None:
    """Write a trace; one sentence if the place is not writable."""
    from remoe_sim.trace.writer import write_trace

    write_trace(trace, output)


def describe(trace: Any) -> str:
    """One line on what is in a trace."""
    from remoe_sim.trace.trace import DECODE
    from remoe_sim.util.units import format_bytes

    model, decode = trace.model, int((trace.phase == DECODE).sum())
    sizes = model.expert_bytes
    parts = [
        f"{trace.tokens:,} tokens ({trace.tokens - decode:,} prefill, {decode:,} decode)",
        f"{trace.requests:,} request{'s' * (trace.requests != 1)}",
        f"{trace.moe_layers} MoE layers",
        f"{_span(model.experts)} experts",
        f"top-{_span(model.top_k)}",
        "expert sizes unknown (--expert-bytes)" if sizes is None else f"experts of {_span(sizes, format_bytes)}",
    ]
    return ", ".join(parts)


def _span(values: tuple[int, ...], show: Any = str) -> str:
    return " to ".join(dict.fromkeys((show(min(values)), show(max(values)))))
