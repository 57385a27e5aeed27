"""`remoe-sim synth`."""

from __future__ import annotations

from typing import Any

import click

from remoe_sim.commands._options import memory_option, note

SECTION = "Make traces"


@click.command()
@click.option("-o", "--output", required=True, type=click.Path(), help="The trace file to write (Parquet).")
@click.option("--like", metavar="TRACE", help="Route as this trace does, layer by layer, in requests like its own.")
@click.option(
    "--toward", metavar="TRACE", help="What --like was tuned to: popularity and reuse change as from --like to it."
)
@click.option("--tokens", metavar="N", help="Tokens, such as 20000 or 50e6; as many as --like has, else 10,000.")
@click.option(
    "--reuse", metavar="R[,R…]", help="Adjacent reuse, such as 0.5 (0.4 if not given); with --like also 1.26x or +0.07."
)
@click.option("--seed", default="0", show_default=True, metavar="N", help="Another seed is another trace.")
@click.option("--layers", metavar="N", help="MoE layers; 16 if not given.")
@click.option("--experts", metavar="N", help="Routed experts of a layer; 64 if not given.")
@click.option("--top-k", metavar="N", help="Experts per token; 6 if not given.")
@click.option("--model", metavar="NAME", help="Layers, experts and sizes of a model that 'list models' shows.")
@click.option("--quant", metavar="NAME", help="Quantisation of --model; bf16 if not given.")
@click.option(
    "--skew", metavar="S[,S…]", help="Popularity falls as rank to the power -S; one or one per layer; 0.5 if not given."
)
@click.option("--request-tokens", metavar="N", help="Tokens of a request; 512 if not given.")
@click.option("--prompt-tokens", metavar="N", help="Those of them that are the prompt; 128 if not given.")
@click.option("--expert-bytes", metavar="SIZE", help="Size of an expert, such as 3MiB.")
@click.option("--name", help="Name of the model.")
@memory_option
def command(output: str, **given: Any) -> None:
    """Make a synthetic trace.

    Popular experts, and experts used recently, are chosen more often.

    With --like both are fitted to a real trace, so that LRU has nearly its hits at every capacity; --reuse then asks
    what a router with more (or less) reuse would bring. A trace may be larger than memory. A synthetic trace has no
    words: tokens do not bring their experts back, and layers know nothing of each other.

    \b
    Examples:
      remoe-sim synth -o t.parquet --tokens 20000 --layers 4 --reuse 0.5
      remoe-sim synth --like real.parquet -o same.parquet
      remoe-sim synth --like real.parquet --reuse 1.26x -o tuned.parquet
      remoe-sim synth --like original.parquet --toward tuned.parquet --model deepseek-v2-lite -o large.parquet
      remoe-sim synth --model olmoe-1b-7b --quant q4_k_m --tokens 2000 -o o.parquet
    """
    import remoe_sim
    from remoe_sim.commands.import_ import describe, write
    from remoe_sim.util.remote import check_output

    check_output(output)
    trace = remoe_sim.synth(**given)
    write(trace, output)
    click.echo(f"wrote {output}: {describe(trace)}")
    note(trace.notes)
