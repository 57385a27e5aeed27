"""docs/layout.md: its table, its picture, its walk and its numbers are those of the code."""

import html
import json
import re

import pytest

from docs.site.layout import BOTTOM, CENTRES, PICTURE, SAID, drawn, table
from tests.support.layout import MAY_IMPORT, ROOT

pytestmark = pytest.mark.once

TEXT = (ROOT / "docs" / "layout.md").read_text("utf-8")


def rows(heading):
    """The cells of the table that begins with a heading, a list for each row."""
    lines = TEXT.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_is_the_one_that_imports_are_held_to():
    shown = {name.strip("`"): set(re.findall(r"`(\w+)`", may)) for name, _, may in rows("room")}
    assert shown == {name: set(others) - {name} for name, others in MAY_IMPORT.items()}


def test_the_picture_is_up_to_date():
    description = re.search("<dc:description>(.*?)</dc:description>", PICTURE.read_text("utf-8"), re.DOTALL)[1]
    assert html.unescape(description) == drawn(table()), "run python -m docs.site.layout"


def test_the_picture_has_every_room_and_leads_down():
    assert {*CENTRES, BOTTOM} == {*SAID, BOTTOM} == set(MAY_IMPORT)
    upwards = [pair for pair in table() if pair[1] != BOTTOM and CENTRES[pair[0]][1] <= CENTRES[pair[1]][1]]
    assert upwards == []


def test_files_that_the_page_names_exist():
    named = re.findall(r"`([\w/]+(?:/|\.(?:py|json)))`", TEXT)
    assert len(named) > 40
    missing = [name for name in named if not any((place / name).exists() for place in (ROOT, ROOT / "remoe_sim"))]
    assert missing == []


def test_what_is_entered_is_what_was_counted():
    counted = json.loads((ROOT / "benchmarks" / "results" / "files_entered.json").read_text("utf-8"))
    shown = {name.strip("`"): (int(files), int(functions)) for name, files, functions in rows("command")}
    assert shown == {name: (one["files"], one["functions"]) for name, one in counted.items()}
