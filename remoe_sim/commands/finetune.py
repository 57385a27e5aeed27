"""remoe-sim finetune"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from remoe_sim.finetune import Stage, Tuned
    from remoe_sim.finetune.training import TrainingPoint

SECTION = "Make traces"


@click.command()
@click.argument("model")
@click.option("--data", required=True, metavar="FILE", help="Texts: a .txt file, one per line, or a .jsonl file.")
@click.option("--recipe", default="paper", show_default=True, help="paper, three-stage, ce-only, or a TOML file.")
@click.option("-o", "output", required=True, metavar="FOLDER", help="The checkpoint to write; must not be there.")
@click.option("--validation", metavar="FILE", help="Texts to evaluate on; else 5 % of the data are held out.")
@click.option("--downstream", metavar="FILE", help="Texts of a stage that reads those of a downstream task.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the order of the texts.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
def command(model: str, data: str, output: str, **arguments: Any) -> None:
    """Tune a router so that adjacent tokens share more experts.

    MODEL is a name on the Hugging Face Hub or a folder; nothing but its gates is changed. Lines of a .jsonl file have
    "prompt", "text" or "messages". FOLDER gets a checkpoint of the same architecture, and in finetune/ the gates
    alone and a report. What was interrupted goes on from its last evaluation when the command is repeated. Needs torch
    and transformers: pip install 'remoe-sim[finetune]'.

    \b
    Examples:
      remoe-sim finetune ./my-model --data texts.jsonl --recipe quick.toml -o tuned
    """
    from remoe_sim.finetune import run

    tuned = run(model, data, output, **arguments, progress=_progress())
    show(tuned)
    for sentence in tuned.notes:
        note(sentence)


def show(tuned: Tuned) -> None:
    """The model before and after, in a table."""
    share = f"{tuned.gates:,} of {tuned.parameters:,} parameters in {tuned.layers} MoE layers"
    click.echo(f"wrote {tuned.output}: recipe {tuned.recipe.name}, {share} were tuned\n")
    click.echo(f"{'':10}{'validation loss':>24}{'adjacent reuse':>24}")
    for name, point, of in (("original", tuned.original, None), ("tuned", tuned.tuned, tuned.original)):
        loss, reuse = _in_words(point, of)
        click.echo(f"{name:10}{loss:>24}{reuse:>24}")


def _in_words(point: TrainingPoint, of: TrainingPoint | None) -> tuple[str, str]:
    """Loss and reuse, and their change against another point."""
    loss = _against(point.loss, of.loss if of else None, ".4f")
    reuse = "not defined" if point.reuse is None else _against(point.reuse, of.reuse if of else None, ".2%")
    return loss, reuse


def _against(value: float, before: float | None, form: str) -> str:
    change = f" ({value / before - 1:+.1%})" if before else ""
    return format(value, form).replace("%", " %") + change.replace("%", " %")


def _progress() -> Callable[[Stage, int, TrainingPoint | None], None]:
    seen: list[TrainingPoint] = []

    def tell(stage: Stage, step: int, point: TrainingPoint | None) -> None:
        tty = sys.stderr.isatty()
        if point is None:
            if tty:
                click.echo(f"\r\x1b[2Kstage {stage.name}, step {step} of {stage.steps}\r", err=True, nl=False)
            return
        loss, reuse = _in_words(point, seen[0] if seen else None)
        seen.append(point)
        where = f"stage {stage.name}, step {step} of {stage.steps}" if step else "original"
        click.echo(f"{chr(13)}{chr(27)}[2K" * tty + f"{where}: loss {loss}, reuse {reuse}", err=True)

    return tell
