"""Figures that documents state about speed and fidelity are those of a kept result.

A document names where its figures are from in a comment, after the text that states them:

    <!-- figures of growth.json
    | layers, 2 to 32 | {0.99} | = axes[axis=layers & policy=lru].exponent
    -->

Before `=` is text of the document with the figures in braces; after it, separated by `;`, what each of them is: a path
into the file (`.length`: how many there are), and what it is divided by, multiplied by or added to. The figure is that
number, rounded as it is shown.
"""

import json
import operator
import re

import pytest

from tests.support.scripts import ROOT

pytestmark = pytest.mark.once
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMENT = re.compile(r"<!-- figures of (\S+)\n(.*?)\n-->", re.DOTALL)
OPERATIONS = {"/": operator.truediv, "*": operator.mul, "+": operator.add}


def claims():
    """(document, file, line) of every line of every comment."""
    for path in DOCUMENTS:
        for name, lines in COMMENT.findall(path.read_text("utf-8")):
            yield from ((path.name, name, line) for line in lines.splitlines())


def found(data, path):
    """What a path leads to: keys, and in brackets a key or what one row of a list has."""
    for where, key in re.findall(r"\[([^\]]+)\]|([^.\[\]]+)", path):
        if key == "length":
            data = len(data)
            continue
        if key or "=" not in where:
            data = data[key or where]
            continue
        wanted = dict(one.split("=", 1) for one in where.split(" & "))
        (data,) = [row for row in data if all(str(row[name]) == value for name, value in wanted.items())]
    return data


def number(data, expression):
    first, *rest = re.split(r" ([/*+]) ", expression)
    value = found(data, first)
    for sign, other in zip(rest[::2], rest[1::2], strict=True):
        value = OPERATIONS[sign](value, float(other) if re.fullmatch(r"[\d.e+-]+", other) else found(data, other))
    return value


def as_shown(value, text):
    """A number with as many decimals as a text shows."""
    shown = text.replace(",", "").replace("−", "-")
    return float(shown), round(float(value), len(shown.partition(".")[2]))


def test_documents_name_their_files():
    named = {(document, name) for document, name, _ in claims()}
    assert {("speed.md", f"{name}.json") for name in ("growth", "parquet_to_curve", "roofline", "startup")} <= named
    assert {("speed.md", "vs_libcachesim.json"), ("README.md", "fidelity.json")} <= named


@pytest.mark.parametrize(("document", "name", "line"), list(claims()))
def test_a_figure_is_that_of_the_kept_result(document, name, line):
    stated, _, expressions = line.rpartition(" = ")
    if not stated:
        pytest.fail(f"{document}: '{line}' has no ' = '")
    path = ROOT / document if document == "README.md" else ROOT / "docs" / document
    text = " ".join(COMMENT.sub("", path.read_text("utf-8")).split())
    assert re.sub(r"[{}]", "", stated) in text
    data = json.loads((RESULTS / name).read_text("utf-8"))
    figures = re.findall(r"\{([^}]+)\}", stated)
    assert figures
    for figure, expression in zip(figures, expressions.split(" ; "), strict=True):
        shown, kept = as_shown(number(data, expression), figure)
        assert shown == kept, f"{document}: {figure} is {kept} in {name}"
