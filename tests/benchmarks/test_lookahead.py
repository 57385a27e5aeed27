"""The tables of look-ahead choices in the document are those of the kept result."""

import json

from benchmarks.lookahead import DISTANCES, PREDICTORS, tables
from tests.support.scripts import ROOT


def test_the_tables_of_the_document_are_those_of_the_kept_result():
    answer = json.loads((ROOT / "benchmarks" / "results" / "lookahead.json").read_text("utf-8"))
    assert tables(answer) in (ROOT / "docs" / "what-if.md").read_text("utf-8")
    for one in answer["models"].values():
        assert [row["distance"] for row in one["recall"]] == list(DISTANCES)
        assert len(one["prefetch"]) == 1 + len(PREDICTORS) * len(DISTANCES)
