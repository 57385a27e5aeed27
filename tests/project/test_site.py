"""The site of the documents is built without a warning, and holds everything that can be named on the command line."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli, figures
from tests.support.browser import browser, needs_browser

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.heavy("sphinx", "furo", "myst_parser")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder with the pages, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    made = subprocess.run(["make", "-n", "-o", ".venv/docs.stamp", "docs"], cwd=ROOT, capture_output=True, text=True)
    for line in made.stdout.splitlines():
        if re.search(r"assemble|sphinx", line):
            words = line.replace("build/", f"{folder}/").split()
            done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder / "docs"


def text_of(site, name):
    return html.unescape(re.sub(r"<[^>]+>", "", (site / f"{name}.html").read_text()))


@pytest.mark.parametrize("kind", ["policies", "formats", "models", "devices"])
def test_all_that_is_listed_is_on_a_page(site, kind):
    items = json.loads(CliRunner().invoke(cli.main, ["list", kind, "--json"]).stdout)["items"]
    text = text_of(site, f"list-{kind}")
    for item in items:
        for said in (item["name"], item.get("summary"), item.get("source")):
            assert not said or said in text, f"{kind} {item['name']}"


def test_every_command_and_function_is_on_a_page(site):
    text = text_of(site, "commands")
    for name in cli.main.list_commands(click.Context(cli.main)):
        assert f"Usage: remoe-sim {name} " in text
    text = text_of(site, "python")
    documented = [*remoe_sim._HOMES, *(f"figures.{name}" for name in figures.functions()), "results.ReplayReport"]
    assert [name for name in documented if f"remoe_sim.{name}" not in text] == []


def test_every_document_is_a_page_and_keeps_its_first_line(site):
    for file in (ROOT / "docs").glob("*.md"):
        title = re.search("^# (.+)$", file.read_text(), re.MULTILINE)[1]
        assert title.replace("`", "") in text_of(site, file.stem)


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_pages_open_without_complaint_and_fit(site, tmp_path, width):
    with browser(tmp_path) as tab:
        for name in ("index", "worked-example", "list-policies", "python"):
            tab.open(site / f"{name}.html", width)
            assert tab.complaints == []
            assert tab.value("document.documentElement.scrollWidth") <= width
            assert tab.value("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
