"""The list of commands that `remoe-sim --help` shows."""

from click.testing import CliRunner

from remoe_sim import cli


def test_first_sentences_fit_the_list_of_commands():
    shown = CliRunner().invoke(cli.main, ["--help"], terminal_width=80).stdout.partition("Commands:\n")[2]
    listed = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert list(listed) == cli.main.list_commands(None)
    for name, sentence in listed.items():
        first = cli.main.get_command(None, name).help.partition("\n")[0]
        assert sentence == first, f"{name}: the first line of its help is not one sentence that fits"
        assert sentence[-1] in ".?", name
        assert not sentence.endswith("..."), name
