"""remoe-sim capture"""

from __future__ import annotations

import sys
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
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
def command(output: str, **arguments: Any) -> None:
    """Run a model and record its expert routing.

    MODEL is a name on the Hugging Face Hub or a folder, or a .gguf file. Generates greedily from each prompt. Lines of
    a .jsonl file have "prompt", "text" or "messages"; under --teacher-force also "completion", and the prompt is
    prefill then. --ahead gives each router's input to the next ones too (look-ahead choices, which info judges and
    prefetch --predictor lookahead replays; Transformers only). Transformers needs pip install 'remoe-sim[capture]', a
    .gguf file pip install 'remoe-sim[llamacpp]'.

    \b
    Examples:
      remoe-sim capture ./my-model --prompts prompts.txt -o trace.parquet
      remoe-sim capture ./my-model --prompts prompts.txt --batch 4 --max-new-tokens 8 -o trace.parquet
      remoe-sim capture ./my-model --prompts prompts.jsonl --teacher-force --probs -o trace.parquet
      remoe-sim capture ./my-model --prompts prompts.txt --max-new-tokens 8 --ahead 2 -o trace.parquet
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
    note(trace.notes)


def _progress(done: int, total: int) -> None:
    click.echo(f"\r\x1b[2Kprompt {done + 1} of {total}\r", err=True, nl=False)
