"""`remoe-sim doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        from remoe_sim.reports.installation import compile_kernels

        compile_kernels()
    found = remoe_sim.doctor()
    if as_json:
        print_json(found.to_dict())
    else:
        show(found)
    for problem in found.problems:
        note(problem)


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
