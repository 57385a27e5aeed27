"""The list of commands that `remoe-sim --help` shows."""

import subprocess
import sys

from click.testing import CliRunner

from remoe_sim import cli


def sections():
    """Per section of the help, its commands and their sentences."""
    shown = CliRunner().invoke(cli.main, ["--help"], terminal_width=80).stdout.partition("--help ")[2]
    blocks = [block.splitlines() for block in shown.split("\n\n")[1:]]
    return {title.rstrip(":"): dict(line.split(maxsplit=1) for line in lines) for title, *lines in blocks}


def test_every_command_is_in_one_section():
    listed = [name for commands in sections().values() for name in commands]
    assert sorted(listed) == cli.main.list_commands(None)
    assert tuple(sections()) == cli.SECTIONS


def test_first_sentences_fit_the_list_of_commands():
    for commands in sections().values():
        for name, sentence in commands.items():
            first = cli.main.get_command(None, name).help.partition("\n")[0]
            assert sentence == first, f"{name}: the first line of its help is not one sentence that fits"
            assert sentence[-1] in ".?", name
            assert not sentence.endswith("..."), name


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "remoe_sim", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "remoe-sim,")
