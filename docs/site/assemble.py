"""Put the pages of the site into a folder: `python docs/site/assemble.py FOLDER`; `make docs` builds it with Sphinx.

The pages are those of docs/, README.md as the first, and what is generated from the package: its lists of policies,
formats, models and devices, its commands and its Python functions. Links between files become links between pages.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli, figures
from remoe_sim.commands.list_ import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {  # heading of the navigation, and its pages in order; other documents are added to the first
    "Use": [
        "installation",
        "worked-example",
        "terms",
        "capture",
        "formats",
        "arrays",
        "compare",
        "sweep",
        "distributed",
        "figures",
        "report",
        "what-if",
        "synth",
    ],
    "Understand": ["semantics", "cost-model", "models", "devices", "claims", "robustness"],
    "Look up": ["commands", "python", "list-policies", "list-formats", "list-models", "list-devices"],
    "Develop": ["extending", "layout", "sample", "changelog"],
}
ELSEWHERE = {
    "README.md": "index",
    "traces/samples/README.md": "sample",
    "CHANGELOG.md": "changelog",
    "remoe_sim/devices/cards": "list-devices",
}
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")


def adapted(file: Path) -> str:
    """The text of a document whose links lead to pages; what is no page of the site is named only."""

    def replaced(match: re.Match[str]) -> str:
        text, target, part = match[1], match[2], match[3] or ""
        path = (file.parent / target).resolve()
        inside = path.relative_to(ROOT).as_posix()
        if path.suffix == ".svg":
            return f"[{text}]({path.name})"
        if path.parent == ROOT / "docs" and path.suffix == ".md":
            name = path.stem
        elif inside in ELSEWHERE:
            name = ELSEWHERE[inside]
        else:
            return text if text.startswith("`") else f"`{inside}`"
        return f"[{text.removeprefix('docs/').removesuffix('.md')}]({name}.md{part})"

    return LINK.sub(replaced, file.read_text())


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def policies(rows: list[dict[str, Any]]) -> str:
    def options(row: dict[str, Any]) -> str:
        return " ".join(f"`{name}={default}`" for name, default in row["options"].items())

    cells = (
        (f"`{row['name']}`", row["summary"], row["kind"], options(row), " ".join(row["needs"]), row["source"])
        for row in rows
    )
    return table(("policy", "what it does", "kind", "options", "needs", "source"), cells)


def formats(rows: list[dict[str, Any]]) -> str:
    from remoe_sim.formats.format import PACKAGE, TraceFormat
    from remoe_sim.util.plugins import plugins

    layouts = {name: format.layout.strip() for name, format in plugins(PACKAGE, TraceFormat).items()}
    parts = [f"## {row['name']}\n\n{row['summary']}.\n\n```text\n{layouts[row['name']]}\n```\n" for row in rows]
    return "\n".join(parts)


def models(rows: list[dict[str, Any]]) -> str:
    def mib(row: dict[str, Any], quant: str) -> str:
        size = row["mean_expert_bytes"].get(quant)
        return "not known" if size is None else f"{size / 2**20:,.1f}"

    cells = (
        (f"`{row['name']}`", row["title"], f"{row['moe_layers']} of {row['layers']}",
         f"{row['top_k']} of {row['experts']}", f"{row['parameters'] / 1e9:,.1f}", mib(row, "bf16"), mib(row, "q4_k_m"))
        for row in rows
    )  # fmt: skip
    headings = ("model", "title", "MoE layers", "experts", "10⁹ parameters", "MiB per expert, bf16", "q4_k_m")
    parts = [f"## {row['name']}\n\n{row['status']}: {row['source']}\n\n{told(row, row['notes'])}" for row in rows]
    return "\n".join([table(headings, cells), *parts])


def devices(rows: list[dict[str, Any]]) -> str:
    def link(row: dict[str, Any], name: str) -> str:
        return "" if row[name] is None else f"{row[name]['bandwidth_bytes_per_s'] / 1e9:,.1f}"

    cells = (
        (f"`{row['name']}`", row["title"], f"{row['memory_bytes'] / 2**30:,.1f}",
         f"{row['bandwidth_bytes_per_s'] / 1e9:,.0f}", link(row, "host"), link(row, "storage"))
        for row in rows
    )  # fmt: skip
    headings = ("device", "title", "memory, GiB", "its GB/s", "from host, GB/s", "from storage, GB/s")
    return "\n".join([table(headings, cells), *map(device, rows)])


def device(row: dict[str, Any]) -> str:
    """Every number of a device with its status and source, and what nobody has measured."""
    facts = ((f"`{name}`", fact["value"], fact["status"], fact["source"]) for name, fact in row["facts"].items())
    notes = told(row, [row["note"]] * bool(row["note"]))
    return f"## {row['name']}\n\n{notes}\n{table(('number', 'value', 'status', 'source'), facts)}"


def told(row: dict[str, Any], notes: list[str]) -> str:
    """What a card says that nobody has checked, and its notes, as a list."""
    return "".join(f"* {' '.join(note.split())}\n" for note in [*row["unverified"], *notes])


def commands() -> str:
    """What every command says of itself with --help."""
    parts = []
    for name in ["", *cli.main.list_commands(click.Context(cli.main))]:
        said = CliRunner().invoke(cli.main, [*name.split(), "--help"], prog_name="remoe-sim", terminal_width=80).stdout
        parts.append(f"{f'## {name}' if name else '# Commands'}\n\n```text\n{said}```\n")
    return "\n".join(parts)


def python() -> str:
    """Functions, what they return, other classes, and figures, by autodoc from their docstrings."""
    values = {name: getattr(remoe_sim, name) for name in remoe_sim.__all__ if name != "__version__"}
    functions = {name: value for name, value in values.items() if not isinstance(value, type)}
    classes = {name: value for name, value in values.items() if isinstance(value, type)}
    answers = {answer(value) for value in functions.values()} - {*classes.values(), type(None)}
    named = [f"{one.__module__}.{one.__name__}" for one in answers]
    return "\n".join(
        [
            "# Python\n\nEvery command has a function of the same name (`import_trace` for `import`).\n",
            *(documented("autofunction", f"remoe_sim.{name}") for name in functions),
            "## Objects\n",
            *(documented("autoclass", f"remoe_sim.{name}") for name in classes),
            "## Answers\n",
            *(documented("autoclass", name) for name in sorted(named, key=lambda name: name.rpartition(".")[2])),
            "## Figures\n",
            *(documented("autofunction", f"remoe_sim.figures.{name}") for name in figures.functions()),
        ]
    )


def answer(function: Callable[..., Any]) -> type:
    """The class of what a function returns; none of those whose names only type checkers see, such as DataFrames."""
    alone = SimpleNamespace(__annotations__={"return": function.__annotations__["return"]})  # arguments may be such too
    try:
        return typing.get_type_hints(alone, inspect.unwrap(function).__globals__)["return"]
    except NameError:
        return type(None)


def documented(kind: str, name: str) -> str:
    members = "\n   :members:" if kind == "autoclass" else ""
    return f"```{{eval-rst}}\n.. {kind}:: {name}{members}\n```\n"


LISTS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], str]]] = {
    "policies": ("Policies", policies), "formats": ("Formats and their layouts", formats),
    "models": ("Models", models), "devices": ("Devices", devices),
}  # fmt: skip


def assemble(folder: Path) -> None:
    """Write all pages into a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    documents = {file.stem: file for file in (ROOT / "docs").glob("*.md")}
    for name, file in {
        **documents,
        "sample": ROOT / "traces/samples/README.md",
        "changelog": ROOT / "CHANGELOG.md",
    }.items():
        (folder / f"{name}.md").write_text(adapted(file))
    for picture in (ROOT / "docs").glob("*.svg"):
        shutil.copy(picture, folder)
    first = adapted(ROOT / "README.md").partition("## Where to look next")[0]
    pages = {caption: list(names) for caption, names in PAGES.items()}
    pages["Use"] += sorted(set(documents) - {name for names in pages.values() for name in names})
    trees = [
        f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
        for caption, names in pages.items()
    ]
    (folder / "index.md").write_text("\n".join([first, *trees]))
    for kind, (title, written) in LISTS.items():
        intro = f"# {title}\n\nWhat `remoe-sim list {kind}` shows in version {remoe_sim.__version__}."
        (folder / f"list-{kind}.md").write_text(f"{intro}\n\n{written(KINDS[kind]())}")
    (folder / "commands.md").write_text(commands())
    (folder / "python.md").write_text(python())


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
