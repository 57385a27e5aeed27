"""`remoe-sim doctor`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import note, print_json

if TYPE_CHECKING:
    from remoe_sim.reports.installation import Checkup, Package

SECTION = "This installation"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.doctor.v1).")
@click.option("--compile", "compiles", is_flag=True, help="First compile all kernels (minutes), so no command has to.")
def command(as_json: bool, compiles: bool) -> None:
    """Check the installation.

    Shows versions, processors, the folder of compiled kernels and the extras that are installed. Paste it into a report
    of a problem.

    \b
    Examples:
      remoe-sim doctor
      remoe-sim doctor --json
    """
    import remoe_sim

    if compiles:
        compile_kernels()
    found = remoe_sim.doctor()
    if as_json:
        print_json(found.to_dict())
    else:
        show(found)
    for problem in found.problems:
        note(problem)


def compile_kernels() -> None:
    """Compile what commands run, so that none of them has to; what is kept already is not compiled again.

    Each is run on a trace of a few tokens: every policy in both orders of accesses and at several sizes, then what
    has loops of its own.
    """
    import remoe_sim
    from remoe_sim.policy.base import Policy
    from remoe_sim.util.plugins import plugins
    from remoe_sim.util.progress import stage

    trace = remoe_sim.synth(tokens=48, layers=4, experts=8, top_k=2, reuse=0.4, seed=1, expert_bytes=2**20)
    tasks: list[Callable[[], object]] = []
    for name, policy in plugins("remoe_sim.policies", Policy).items():
        how: dict[str, Any] = {"policy": name, "admission": policy.admissions[0]}
        how |= {"train": trace} if policy.needs_training else {}
        tasks += [partial(remoe_sim.replay, trace, 2, order=order, **how) for order in ("set", "sequential")]
        tasks += [
            partial(remoe_sim.curve, trace, **how),
            partial(remoe_sim.replay, trace, budget=8 * 2**20, scope="global", **how),
        ]
    tasks += [
        partial(remoe_sim.verdict, "sample:qwen-original", 8),
        partial(remoe_sim.curve, remoe_sim.synth(tokens=8, layers=4, experts=300, top_k=2, seed=1)),
        partial(remoe_sim.curve, trace, scope="global", budget="all"),
        partial(remoe_sim.prefetch, trace, 2),
        partial(remoe_sim.info, trace),
    ]
    with stage("compiling kernels", len(tasks)) as running:
        for task in tasks:
            task()
            running.advance(1)


def show(found: Checkup) -> None:
    """One fact per line; paths and commands are never broken, so that they can be copied."""
    import textwrap

    from remoe_sim.util.units import format_bytes, plural

    cache = found.cache
    rows = [
        ("remoe-sim", found.version),
        ("installed in", found.location),
        ("Python", f"{found.python}, {found.executable}"),
        ("system", found.system),
        ("cores", f"{found.cores} usable, {plural(found.threads, 'thread')}"),
        ("kernel cache", cache.directory or "none: no place is writable"),
        ("", f"{plural(cache.kernels, 'compiled kernel')}, {format_bytes(cache.size_bytes)}"),
        *((one.name, _version(one)) for one in found.packages),
    ]
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        click.echo(f"{name:{width}}{value}")
    click.echo("\nextras")
    for extra in found.extras:
        names = ", ".join(f"{one.name} {_version(one)}" for one in extra.packages)
        first, *others = textwrap.wrap(names, 80 - width, break_on_hyphens=False)
        click.echo(f"  {extra.name:{width - 2}}{first}")
        for line in others:
            click.echo(" " * width + line)
        if extra.install:
            click.echo(f"{'':{width}}{extra.install}")


def _version(package: Package) -> str:
    if package.version is None:
        return "missing"
    return package.version if package.fits else f"{package.version}, but {package.needs} is needed"
