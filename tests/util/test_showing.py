"""Answers show themselves as a page's worth: a table and sentences, in a notebook and in a Python shell."""

from dataclasses import dataclass

import pandas as pd
import pytest

import remoe_sim
from remoe_sim.util.display import Shown
from tests.support.data import DEMO


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    rows: list

    def to_frame(self):
        return pd.DataFrame(self.rows)

    def _sentence(self):
        return "Half <of> it."


def test_what_is_the_same_in_all_rows_or_long_stands_below():
    rows = [{"policy": name, "scope": "layer", "none": None, "rate": 0.123456, "why": "a & b " * 20} for name in "xy"]
    rows[1]["rate"] = 123456.7
    assert repr(Answer(rows)).splitlines() == [
        "Half <of> it.",
        "policy    rate",
        "     x  0.1235",
        "     y 123,457",
        "in all rows: scope layer",
        "why: " + "a & b " * 20,
    ]
    html = Answer(rows)._repr_html_()
    assert html.startswith("<p>Half &lt;of&gt; it.</p><table")
    assert "<td>x</td>" in html
    assert "<p>why: a &amp; b " in html
    assert "none" not in html


def test_one_row_is_a_column_and_is_shown_whole():
    row = {f"name_{number}": number for number in range(99)}
    lines = repr(Answer([row])).splitlines()
    assert [line.split() for line in lines[1:]] == [[name, str(number)] for name, number in row.items()]
    assert Answer([row])._repr_html_().count("<td>") == 99


@pytest.mark.parametrize("rows", [[], [{"a": 1}, {"a": 1}], [{"a": None}]])
def test_nothing_to_show_is_no_table(rows):
    assert repr(Answer(rows)).splitlines()[1:] == (["in all rows: a 1"] if len(rows) == 2 else [])
    assert "<table" not in Answer(rows)._repr_html_()


def answers():
    """An object of each kind that fits on a page whatever is in it."""
    trace = remoe_sim.read_trace(DEMO)
    replayed = remoe_sim.replay(trace, cache=8, device="rtx-4090")
    yield from (trace, trace.model, replayed, replayed["lru"], remoe_sim.info(trace), remoe_sim.doctor())
    yield remoe_sim.estimate("olmoe-1b-7b", ["rtx-4090", "oneplus-15r"], "q4_k_m", hit_rate=0.8)
    yield from (remoe_sim.split(trace, cache=8), remoe_sim.plan(trace, "rtx-4090", target_tpot="8ms"))
    yield from (remoe_sim.device("rtx-4090"), remoe_sim.machine("rtx-4090").storage)
    yield remoe_sim.model("olmoe-1b-7b", "q4_k_m")


@pytest.mark.heavy("numba")  # takes long
def test_real_answers_fit_on_a_page():
    for answer in answers():
        name = type(answer).__name__
        assert "<table" in answer._repr_html_(), name
        assert 0 < len(repr(answer)) < 5000, name
