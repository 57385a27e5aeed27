"""remoe-sim capture"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from remoe_sim.commands._options import note

SECTION = "Make traces"


@click.command()
@click.argument("model")
@click.option("--prompts", required=True, metavar="FILE", help="A .txt file with a prompt per line, or a .jsonl file.")
@click.option("-o", "output", required=True, metavar="TRACE", help="The trace file to write (Parquet).")
@click.option("--max-new-tokens", type=int, default=128, show_default=True, metavar="N", help="Generated per prompt.")
@click.option("--batch", type=int, default=1, show_default=True, metavar="N", help="Prompts that run at once.")
@click.option("--teacher-force", is_flag=True, help="Read the texts instead of generating; tokens count as decode.")
@click.option("--probs", is_flag=True, help="Keep the full distributions of the routers too.")
@click.option(
    "--ahead", type=int, default=0, metavar="N", help="Record what the routers of the N next MoE layers say beforehand."
)
@click.option("--temperature", type=float, default=0.0, show_default=True, metavar="T", help="0 generates greedily.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of sampling with a temperature.")
@click.option("--route", metavar="NAME", help="Let routers follow a cache: cache-prior, max-rank, cumulative, drop, …")
@click.option("--cache", metavar="N", help="Of --route: experts per layer that the cache holds.")
@click.option("--policy", default="lru", show_default=True, metavar="NAME", help="Of --route: the policy of the cache.")
@click.option("--bias", metavar="L", help="Of cache-prior: share of the router's range, 0 to 1; 0 changes nothing.")
@click.option("--max-rank", metavar="M", help="Of max-rank: residents among the M most probable experts go first.")
@click.option("--threshold", metavar="F", help="Of cumulative, drop and substitute, as in 'remoe-sim reroute'.")
@click.option("--keep", default="1", show_default=True, metavar="J", help="The J strongest experts always stay.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
def command(output: str, **arguments: Any) -> None:
    """Run a model and record its expert routing.

    MODEL is a name on the Hugging Face Hub or a folder, or a .gguf file. Generates greedily from each prompt. Lines of
    a .jsonl file have "prompt", "text" or "messages"; under --teacher-force also "completion", and the prompt is
    prefill then, and the loss on the texts is printed. --ahead gives each router's input to the next ones too
    (look-ahead choices, which info judges and prefetch --predictor lookahead replays; Transformers only).

    With --route a cache runs along, and the routers of decode tokens prefer what is in it (closed loop): later tokens
    and layers are those of the changed model. The trace has what was computed; a replay of it with the same cache and
    policy counts the same hits. --route drop and substitute leave out or replace what is not there.

    Transformers needs pip install 'remoe-sim[capture]', a .gguf file pip install 'remoe-sim[llamacpp]'.

    \b
    Examples:
      remoe-sim capture ./my-model --prompts prompts.txt -o trace.parquet
      remoe-sim capture ./my-model --prompts prompts.txt --batch 4 --max-new-tokens 8 -o trace.parquet
      remoe-sim capture ./my-model --prompts prompts.jsonl --teacher-force --probs -o trace.parquet
      remoe-sim capture ./my-model --prompts prompts.txt --max-new-tokens 8 --ahead 2 -o trace.parquet
      remoe-sim capture ./my-model --prompts prompts.txt --route cache-prior --bias 0.3 --cache 8 -o closed.parquet
      remoe-sim capture my-model.gguf --prompts prompts.txt --max-new-tokens 8 -o trace.parquet
    """
    from pathlib import Path

    from remoe_sim.capture import run
    from remoe_sim.commands.import_ import describe
    from remoe_sim.trace.writer import write_trace
    from remoe_sim.util.remote import check_output, is_url

    check_output(output)
    if not is_url(output) and not Path(output).resolve().parent.is_dir():
        raise click.UsageError(f"folder '{Path(output).parent}' does not exist; give -o a path in one that does")
    trace = run(**arguments, progress=_progress if sys.stderr.isatty() else None)
    write_trace(trace, output)
    click.echo(f"wrote {output}: {describe(trace)}")
    for line in _found(trace.origin):
        click.echo(line)
    note(trace.notes)


def _found(origin: dict[str, Any]) -> Iterator[str]:
    """What was found besides the routing: the loss on the texts, and what the loop counted."""
    from remoe_sim.util.units import percent

    if (loss := origin.get("loss")) and loss["tokens"]:
        yield f"loss: {loss['nats_per_token']:.4f} nats per predicted token, over {loss['tokens']:,} tokens (counted)"
    if route := origin.get("route"):
        decode = route["decode"]
        if decode["lookups"]:
            rate = decode["hits"] / decode["lookups"]
            yield (
                f"decode hit rate in the loop: {percent(rate)} of {decode['lookups']:,} lookups "
                f"({route['policy']}, {route['experts_per_layer']} experts per layer)"
            )
        if route["changed_share"] is not None:
            yield f"changed slots: {percent(route['changed_share'])} of those of decode tokens"


def _progress(done: int, total: int) -> None:
    click.echo(f"\r\x1b[2Kprompt {done + 1} of {total}\r", err=True, nl=False)
