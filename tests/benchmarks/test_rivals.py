"""What benchmarks/paper/README.md says of routes in the closed loop is what the kept rows say."""

import json

from benchmarks.paper.rivals_table import name_of, short_table
from tests.support.scripts import ROOT

ROWS = json.loads((ROOT / "benchmarks" / "results" / "rivals.json").read_text())
README = (ROOT / "benchmarks" / "paper" / "README.md").read_text()


def row(architecture, name, texts="test", cache=8):
    (found,) = [
        one
        for one in ROWS
        if (one["architecture"], one["texts"], name_of(one)) == (architecture, texts, name)
        and one["cache"] in (None, cache)
    ]
    return found


def hits(one, size="8"):
    return one["hit_rate"]["lru"][size]["value"]


def test_the_table_is_that_of_the_rows():
    assert short_table(ROWS) in README


def test_every_loop_counted_what_a_replay_counts():
    assert [one["replay_agrees"] for one in ROWS if one["route"]] == [True] * 48


def test_what_a_reader_may_conclude():
    for architecture in ("deepseek", "qwen"):
        tuned, prior = row(architecture, "ReMoE"), row(architecture, "original + cache-prior 0.2")
        assert prior["loss"]["change"] < tuned["loss"]["change"] < 0.01
        assert hits(prior) - hits(tuned) > 0.15
        assert prior["load_balance_cv"]["value"] < 0.45 < tuned["load_balance_cv"]["value"]
        assert prior["reuse_rate"]["value"] > 1.26 * row(architecture, "original")["reuse_rate"]["value"]
        both = row(architecture, "ReMoE + cache-prior 0.2")
        assert hits(both) < hits(row(architecture, "original + substitute 0.4")) + 0.001
        assert both["reuse_rate"]["value"] > max(tuned["reuse_rate"]["value"], prior["reuse_rate"]["value"])
        for texts in ("packages", "sampled"):
            order = [hits(row(architecture, name, texts)) for name in
                     ("original", "ReMoE", "original + cache-prior 0.2", "ReMoE + cache-prior 0.2")]  # fmt: skip
            assert order == sorted(order), (architecture, texts)
        seen_16 = row(architecture, "original + cache-prior 0.2", cache=16)
        assert hits(seen_16, "16") > hits(prior, "16")
    off = [abs(one["closed_loop_hit_rate"] - one["open_loop_hit_rate"]) for one in ROWS if one["open_loop_hit_rate"]]
    assert max(off) < 0.0025
