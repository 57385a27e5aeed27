"""`remoe-sim plot`."""

from __future__ import annotations

from typing import Any

import click

from remoe_sim.commands._options import fast_option, memory_option, note

SECTION = "Many runs and output"


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FOLDER", required=True, help="Where the figures go; made if it is not there.")
@click.option("--figure", metavar="NAME,…", help="Only these figures, by the names of their files.")
@click.option("--format", default="svg", show_default=True, metavar="svg|pdf|png", help="One, or several with commas.")
@click.option("--dark", is_flag=True, help="Light on dark.")
@click.option("--layer", metavar="N", help="Whose routing is shown, the model's number; the middle one if not given.")
@click.option("--policy", metavar="NAME,…", help="Policies of what is replayed; lru, lfu and belady if not given.")
@fast_option
@click.option("--cache", metavar="N", help="Experts per layer, for the best split and the times of tokens.")
@click.option("--budget", metavar="SIZE", help="Bytes of all layers together instead.")
@click.option("--phase", metavar="all|decode|prefill", help="Which tokens are replayed; all if not given.")
@click.option("--device", metavar="NAME", help="Also draw the times of single tokens there: a name of 'list devices'.")
@click.option("--model", metavar="NAME", help="Whose sizes these times take, if the trace does not tell.")
@click.option("--quant", metavar="NAME", help="In which quantisation, such as q4_k_m.")
@click.option("--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer, if a trace has none.")
@memory_option
def command(files: tuple[str, ...], **arguments: Any) -> None:
    """Draw figures of traces and sweeps.

    Draws every figure that FILES allow.

    Traces give reuse, routing, popularity, hit rates and regret at every capacity, and with --cache or --budget the
    best split and, with --device, the times of single tokens. A sweep with -o gives hit rates, regret, bytes and times.
    What is not possible is said with its reason.

    \b
    Examples:
      remoe-sim plot sample:qwen-original -o figures/
      remoe-sim plot original.parquet tuned.parquet --figure reuse-per-layer --format pdf -o figures/
      remoe-sim plot sample:qwen-original --cache 8 --device rtx-4090 --policy lru,belady --dark -o figures/
    """
    import remoe_sim

    plots = remoe_sim.plot(list(files), **arguments)
    for path in plots.files:
        click.echo(path)
    reasons: dict[str, list[str]] = {}
    for name, reason in plots.left_out.items():
        reasons.setdefault(reason, []).append(name)
    for sentence in plots.notes:
        note(sentence)
    for reason, names in reasons.items():
        note(f"not drawn: {', '.join(names)}: {reason}")
