"""The rules of docs/claims.md, held by every output: no bound that is none, no time without its doubts, no rate without
its denominator, nothing side by side that cannot be compared."""

import json
import re

import pandas as pd
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli, figures
from remoe_sim.devices.doubts import of_rows
from remoe_sim.figures.capacity import regret_rows
from tests.oracle.naive import DECODE, Row
from tests.support.strategies import Shape, trace_of
from tests.support.timed import with_dense

ROWS = [Row(at // 4, at % 4, at, DECODE, [[at % 5, (at + 2) % 5], [at % 4]]) for at in range(12)]
DOUBT = "device oneplus-15r: assumed, not measured: "


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Traces in a folder: unequal.parquet, whose layers differ in the size of an expert, and equal.parquet."""
    monkeypatch.chdir(tmp_path)
    for name, sizes in (("unequal", (7, 11)), ("equal", (8, 8))):
        remoe_sim.write_trace(with_dense(trace_of(ROWS, Shape((5, 5), (2, 1), sizes))), f"{name}.parquet")
    return tmp_path


def run(*arguments):
    done = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


# --- no bound where entries differ in size, or where lookups are left out


def starred(text):
    return "belady*" in text or "shared*" in text


@pytest.mark.parametrize("command", ["replay", "verdict", "split"])
def test_a_star_stands_only_where_belady_is_the_optimum(folder, command):
    for name in ("equal", "unequal"):
        limit = ("--budget", "30B", *(() if command == "split" else ("--scope", "global")))
        policy = () if command == "verdict" else ("--policy", "lru,belady")
        text = run(command, f"{name}.parquet", *limit, *policy).stdout
        assert starred(text) == (name == "equal"), (command, name)


def test_json_says_whether_it_is_the_optimum(folder):
    found = {}
    for name in ("equal", "unequal"):
        belady = (f"{name}.parquet", "--policy", "belady", "--json", "--scope", "global")
        replay, curve, sweep = (
            json.loads(run(command, *belady, "--budget", "30B").stdout) for command in ("replay", "curve", "sweep")
        )
        plan = json.loads(run("plan", *belady, "--device", "oneplus-15r").stdout)
        found[name] = [
            replay["results"][0]["optimal"], curve["optimal"] == ["belady"], sweep["rows"][0]["optimal"],
            plan["results"][0]["optimal"],
        ]  # fmt: skip
    assert found == {"equal": [True] * 4, "unequal": [False] * 4}
    warm = ("--cache", "2", "--warmup", "1", "--policy", "belady", "--json")
    assert json.loads(run("replay", "equal.parquet", *warm).stdout)["results"][0]["optimal"] is False
    assert json.loads(run("curve", "equal.parquet", *warm).stdout)["optimal"] == []


def test_texts_and_pages_claim_no_bound(folder):
    for name, said in (("equal", False), ("unequal", True)):
        both = (f"{name}.parquet", "--scope", "global", "--policy", "lru,belady")
        curve = run("curve", *both, "--budget", "30B").stdout
        assert ("belady is no bound here" in curve) == said
        plan = run(
            "plan", f"{name}.parquet", "--scope", "global", "--device", "oneplus-15r", "--policy", "lru,belady"
        ).stdout
        plan = " ".join(plan.split())
        assert ("belady, which misses least," in plan) != said
        assert ("is no bound here, takes" in plan) == said
        run("report", f"{name}.parquet", "--scope", "global", "--budget", "30B", "-o", "r.html")
        page = (folder / "r.html").read_text()
        assert ("belady*" in page) != said
        assert ("no bound" in page) == said


def test_the_figure_of_regret_claims_no_bound(folder):
    for name, bound in (("equal", True), ("unequal", False)):
        path = f"{name}.parquet"
        for rows in (
            remoe_sim.curve(path, "lru,belady", budget="20,30", scope="global"),
            remoe_sim.sweep(path, "lru,belady", budget="20,30", scope="global"),
        ):
            assert regret_rows(rows).attrs["bound"] == bound
            page = figures.regret(rows)
            assert ("offline optimum" in page._suptitle.get_text()) == bound
            assert ("no bound here" in page._suptitle.get_text()) != bound


# --- no time from numbers that nobody measured without saying so


TIMED = ("--device", "oneplus-15r", "--policy", "lru")
WITH_TIMES = [
    ("replay", "equal.parquet", "--cache", "2", *TIMED),
    ("plan", "equal.parquet", *TIMED),
    ("sweep", "equal.parquet", "--cache", "2", *TIMED),
    ("compare", "equal.parquet", "equal.parquet", "--cache", "2", *TIMED, "--resamples", "100"),
    ("tiers", "equal.parquet", "--device-cache", "1", "--host-cache", "3", "--device", "rtx-4090"),
    ("prefetch", "equal.parquet", "--cache", "2", "--predictor", "previous", *TIMED),
    ("estimate", "--device", "oneplus-15r", "--model", "qwen3-30b-a3b", "--quant", "q4_k_m", "--hit-rate", "0.5"),
]


@pytest.mark.parametrize("arguments", WITH_TIMES, ids=lambda arguments: arguments[0])
def test_times_come_with_what_was_assumed(folder, arguments):
    shown = run(*arguments)
    assert re.search(r"TPOT|ms", shown.stdout)
    assert ": assumed, not measured: " in shown.stderr
    text = run(*arguments, "--json").stdout
    assert json.loads(text)
    assert ": assumed, not measured: " in text


def test_pages_and_figures_of_times_say_what_was_assumed(folder):
    run("sweep", "equal.parquet", "--cache", "1:5", *TIMED, "-o", "s.parquet")
    done = run("plot", "s.parquet", "-o", "figures")
    assert "tpot.svg" in done.stdout
    assert DOUBT in done.stderr
    assert "modelled" in (folder / "figures" / "tpot.svg").read_text()
    done = run("plot", "equal.parquet", "--cache", "2", *TIMED, "--figure", "token-latency", "-o", "figures")
    assert DOUBT in done.stderr
    run("report", "s.parquet", "-o", "sweep.html")
    run("report", "equal.parquet", "--cache", "2", "--device", "oneplus-15r", "-o", "trace.html")
    assert DOUBT in (folder / "sweep.html").read_text()
    assert DOUBT in (folder / "trace.html").read_text()


def test_a_card_that_is_not_here_is_doubted_as_a_whole(folder):
    rows = remoe_sim.sweep("equal.parquet", "lru", cache=2, device="oneplus-15r")
    assert any(one.startswith(DOUBT) for one in of_rows(rows))
    (device, _) = of_rows(rows.assign(device="mine"))
    assert device == "device mine: its card is not here, so what of it is assumed is not known; the sweep said it"
    assert of_rows(rows.assign(device=None)) == []
    assert of_rows(remoe_sim.curve("equal.parquet", "lru")) == []


# --- no rate without its denominator


RATES = [
    (("replay", "equal.parquet", "--cache", "2"), "hits / lookups"),
    (("curve", "equal.parquet"), "hits / lookups, of 36 lookups"),
    (("sweep", "equal.parquet", "--cache", "2"), "decode hit rate, of 36 lookups"),
    (("verdict", "equal.parquet", "--cache", "2"), "hit rate: of 36 lookups, decode: of 36"),
    (("prefetch", "equal.parquet", "--cache", "2"), "of 36 lookups"),
    (("split", "equal.parquet", "--cache", "2"), "hits / lookups"),
    (("batches", "equal.parquet", "--cache", "2"), "hits / lookups"),
    (("tiers", "equal.parquet", "--device-cache", "1", "--host-cache", "3"), "36"),
    (
        ("compare", "equal.parquet", "equal.parquet", "--resamples", "100"),
        "hit rates: of 36 decode lookups in A, 36 in B",
    ),
    (("info", "equal.parquet"), "of 27 decode slots"),
]


@pytest.mark.parametrize(("arguments", "denominator"), RATES, ids=lambda one: one[0] if isinstance(one, tuple) else "")
def test_texts_print_denominators(folder, arguments, denominator):
    text = run(*arguments).stdout
    assert "%" in text or arguments[0] == "info"
    assert denominator in text


def rates_without(value, path=""):
    """Paths of hit rates in JSON, but for wanted ones, beside which there are no lookups."""
    if isinstance(value, list):
        return [one for number, item in enumerate(value) for one in rates_without(item, f"{path}[{number}]")]
    if not isinstance(value, dict):
        return []
    names = set(value) if "targets" not in path else set()
    alone = [
        f"{path}.{name}"
        for name in names
        if name.endswith("hit_rate") and value[name] is not None and name.replace("hit_rate", "lookups") not in names
    ]
    return alone + [one for name, item in value.items() for one in rates_without(item, f"{path}.{name}")]


@pytest.mark.parametrize("arguments", [one for one, _ in RATES[:7]], ids=lambda arguments: arguments[0])
def test_json_has_denominators_beside_rates(folder, arguments):
    assert rates_without(json.loads(run(*arguments, "--json").stdout)) == []


def test_the_rates_of_a_comparison_have_denominators(folder):
    answer = remoe_sim.compare("equal.parquet", "unequal.parquet", cache=2, resamples=100).to_dict()
    for one in (answer["verdict"], *answer["metrics"], *answer["layers"]):
        assert one["a_of"] > 0
        assert one["b_of"] > 0
    (hits,) = [one for one in answer["metrics"] if one["metric"] == "hit_rate"]
    assert hits["a_of"] == hits["b_of"] == 36
    assert (answer["scope"], answer["admission"], answer["reset"]) == ("layer", "mandatory", "request")


def test_figures_name_what_rates_are_of(folder):
    rows = remoe_sim.sweep("equal.parquet", "lru,belady", cache="1:4")
    assert "of decode lookups" in figures.hit_rate(rows).axes[0].get_ylabel()
    assert "of lookups" in figures.regret(rows).axes[0].get_ylabel()
    run("sweep", "equal.parquet", "--cache", "1:4", "-o", "s.parquet")
    run("report", "s.parquet", "-o", "s.html")
    assert "of decode lookups" in (folder / "s.html").read_text()


# --- nothing side by side that cannot be compared


def mixed(folder):
    """The rows of two sweeps of one trace under different admissions, as one file."""
    for admission in ("mandatory", "bypass"):
        remoe_sim.sweep("equal.parquet", "lru,belady", cache="1:4", admission=admission, output="s.parquet")
    return pd.read_parquet("s.parquet")


def test_rows_that_cannot_be_compared_are_drawn_apart(folder):
    rows = mixed(folder)
    assert set(rows["admission"]) == {"mandatory", "bypass"}
    page = figures.hit_rate(rows)
    titles = {axes.get_title(loc="left") for axes in page.axes[:2]}
    assert titles == {"equal, admission mandatory", "equal, admission bypass"}
    run("report", "s.parquet", "-o", "s.html")
    text = (folder / "s.html").read_text()
    assert "Rows differ in admission: those that do cannot be compared, and are drawn apart." in text
    assert "scope layer; admission mandatory" in text
    assert "scope layer; admission bypass" in text
    alone = remoe_sim.report(remoe_sim.sweep("equal.parquet", "lru", cache="1:4"))
    assert "cannot be compared" not in alone.html


def test_traces_with_other_numbers_of_experts_are_compared_with_a_warning(folder):
    remoe_sim.write_trace(trace_of(ROWS, Shape((6, 6), (2, 1), (8, 8))), "six.parquet")
    done = run("compare", "equal.parquet", "six.parquet", "--cache", "2", "--resamples", "100")
    assert "the traces have different numbers of experts, so a limit is another share of each" in done.stderr
    done = run("compare", "equal.parquet", "unequal.parquet", "--cache", "2", "--resamples", "100")
    assert "another share" not in done.stderr
