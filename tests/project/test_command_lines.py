"""Every command line that a document, a notebook or a message names is one that the program takes.

Nothing is run here (test_docs.py runs what it can): blocks that are marked as not run, fragments in backquotes and what
messages tell the user to type are parsed as the command line parses them.
"""

import ast
import json
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from remoe_sim import cli

ROOT = Path(__file__).resolve().parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "*.md", "*.ipynb", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split()
FILES = [ROOT / name for name in TRACKED] or [
    path for end in ("md", "ipynb", "py") for path in ROOT.rglob(f"*.{end}") if ".venv" not in path.parts
]
DOCUMENTS = [path for path in FILES if path.suffix in (".md", ".ipynb")]
SOURCES = [path for path in FILES if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(remoe-sim [^`]+)`")
QUOTED = re.compile(r"'(remoe-sim [^'\n]+)'")
COMMAND = re.compile(r"^((?:\w+=\S* +)*remoe-sim(?: .*)?)$", re.MULTILINE)
TARGET = re.compile(r"(?:^(?:\$ )?|`)make ([\w-]+)(?=`|$| )", re.MULTILINE)
SCRIPT = re.compile(r"(?:^(?:\$ )?|`)python ((?:\w[\w.-]*/)+[\w.-]+\.py)", re.MULTILINE)
OPEN = "…"  # a fragment that stands for more


def text_of(path):
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def words_of(line):
    """The words of the first command of a line of the shell, without what it is sent to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        words.append(word)
    while words and re.match(r"\w+=", words[0]):
        words.pop(0)
    return words if words[-1:] != ["2"] else words[:-1]  # the 2 of 2>&1


def parse(line, whole):
    """Raise click.UsageError for what the program would not take; whole: with all that a command needs."""
    program, *arguments = words_of(line)
    assert program == "remoe-sim"
    if not arguments or arguments[0].startswith("-"):
        return
    try:
        with click.Context(cli.main, info_name=program) as context:
            name, command, rest = cli.main.resolve_command(context, arguments)
            command.make_context(name, rest, parent=context)
    except click.MissingParameter:
        if whole and OPEN not in line:
            raise
    except click.exceptions.Exit:  # --help
        return
    except FileNotFoundError:  # --config names a file of the reader's
        assert "--config" in arguments


def lines_of(path):
    """Pairs of a command line and whether it is a whole one: in blocks, and in backquotes."""
    text = text_of(path).replace("\\\n", "")
    for kind, block in BLOCK.findall(text):
        if kind == "console":  # the other lines are what commands print
            block = "\n".join(line[2:] for line in block.splitlines() if line.startswith("$ "))
        yield from ((line, True) for line in COMMAND.findall(block))
    prose = BLOCK.sub("", text)
    yield from ((re.sub(r"\s+", " ", line), False) for line in INLINE.findall(prose))


def texts_of(path):
    """Every text of a module, with `{}` for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_command_lines_are_found():
    found = {str(path.relative_to(ROOT)): list(lines_of(path)) for path in DOCUMENTS}
    assert ("remoe-sim sweep s3://bucket/a.parquet s3://bucket/b.parquet --dask tcp://10.0.0.1:8786 -o sweep.parquet",
            True) in found["docs/distributed.md"]  # fmt: skip
    assert ("remoe-sim curve my.parquet -o curve.csv", False) in found["README.md"]
    assert sum(map(len, found.values())) > 80


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_of_a_document_is_taken(path):
    for line, whole in lines_of(path):
        try:
            parse(line, whole)
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize(
    "line", ["remoe-sim model x.gguf", "remoe-sim replay t.parquet --cash 8", "remoe-sim export t.parquet"]
)
def test_what_the_program_does_not_take_is_found(line):
    with pytest.raises(click.UsageError):
        parse(line, True)


def test_commands_that_messages_name_are_there():
    named = {
        line.replace("{}", OPEN): path.name
        for path in SOURCES
        for text in texts_of(path)
        for line in QUOTED.findall(text)
    }
    assert "remoe-sim list devices" in named
    for line, name in named.items():
        try:
            parse(line, False)
        except click.UsageError as error:
            pytest.fail(f"{name}: '{line}': {error.format_message()}")


def test_targets_and_scripts_that_documents_name_are_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for target in TARGET.findall(text_of(path)):
            assert target in targets, f"{path.name}: make {target}"
        for script in SCRIPT.findall(text_of(path)):
            assert (ROOT / script).is_file(), f"{path.name}: python {script}"
