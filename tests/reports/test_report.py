"""`report`: what the page says, that nothing in it comes from elsewhere, and how it behaves in a real browser."""

import re
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import event, given
from numba import config

import remoe_sim
from remoe_sim import cli
from remoe_sim.reports.charts import nice_ticks
from remoe_sim.reports.trace_report import default_cache
from remoe_sim.trace.prefixes import routing_prefixes
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.browser import browser, needs_browser
from tests.support.data import DEMO, SHARED, needs_traces
from tests.support.pages import Tags
from tests.support.strategies import Shape, cases, trace_of
from tests.support.verdicts import one_layer

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

MOST_BYTES = 3_000_000
compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")


def facts(page):
    """The names and values of the reporting block."""
    return {name: value for name, value, _ in page.sections[1].parts[0].rows}


@pytest.fixture(scope="module")
def page():
    return remoe_sim.report(DEMO, cache=8, policy="lru,lfu")


@pytest.fixture(scope="module")
def swept():
    return remoe_sim.sweep(DEMO, policy="lru,belady", cache="8,16,32", device="rtx-4090,jetson-orin-nx-16gb")


# --- what it says


def test_the_page_agrees_with_the_commands(page):
    verdict = remoe_sim.verdict(DEMO, cache=8, policy="lru,lfu")
    text = " ".join(" ".join(Tags(page.html).texts).split())
    assert verdict.verdict in text
    assert verdict.paragraph.removeprefix(f"Verdict: {verdict.verdict}. ") in text
    for result in verdict.online:
        assert f"{result.misses:,}" in text
        assert f"{100 * result.hit_rate:.2f} %" in text
    assert "remoe-sim report demo.parquet --cache 8 --policy lru,lfu -o report.html" in text
    assert f"remoe-sim {remoe_sim.__version__}, Python" in text
    assert page.html == remoe_sim.report(DEMO, cache=8, policy="lru,lfu").html  # nothing of the moment


def test_what_describes_the_trace_is_counted_once():
    trace, entered = remoe_sim.read_trace(DEMO), []

    def look(frame, event, argument):
        if event == "call" and frame.f_code.co_name in ("layer_statistics", "_hash_of_all", "routing_map"):
            entered.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        remoe_sim.report(trace, cache=8, policy="lru", device="rtx-4090")
    finally:
        sys.setprofile(before)
    assert sorted(entered) == ["_hash_of_all", "layer_statistics", "routing_map"]


def test_the_reporting_block(page):
    said = facts(page)
    verdict = remoe_sim.verdict(DEMO, cache=8, policy="lru,lfu")
    best = verdict.best
    assert said["admission"] == "mandatory"
    assert said["scope"] == "layer"
    assert "of up to 1 decode token, of up to 1 request" in said["forward passes"]
    assert said["denominator of hit rates"].startswith(f"{best.lookups:,} lookups: {best.prefill.lookups:,} of prefill")
    assert said["requests"].startswith("8, of ")
    assert said["distinct prompts"] == "unknown"
    assert said["bytes per output token"] == f"{best.bytes_read_per_token / 2**20:,.1f} MiB"
    assert f"{verdict.gap['future_knowledge']:,} future knowledge" in said["gap and its split"]
    assert said["sampling and engine"] == "unknown"


def test_what_is_not_known_is_not_zero():
    rows = [Row(0, i, i, DECODE, [[i % 3]]) for i in range(6)]
    said = facts(remoe_sim.report(trace_of(rows, Shape((4,), (1,), None)), policy="lru"))
    assert {said[name] for name in ("bytes per output token", "expert sizes", "quantisation")} == {"unknown"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"budget": "20B", "scope": "global"},
        {"cache": 3, "scope": "global", "admission": "bypass"},
        {"cache": 0},
        {"budget": 40, "phase": "decode", "warmup": 2, "reset": "request"},
        {"phase": "prefill"},
    ],
)
def test_limits_and_phases_of_all_kinds(arguments):
    rows = [Row(0, 0, 0, PREFILL, [[0, 1], None]), Row(0, 1, 0, PREFILL, [[1, 2], [0]])]
    rows += [Row(0, i, i, DECODE, [[i % 4, 4], [i % 2]]) for i in range(2, 9)]
    page = remoe_sim.report(trace_of(rows, Shape((5, 2), (2, 1), (10, 7))), policy="lru", **arguments)
    Tags(page.html)


def test_a_trace_without_tokens():
    Tags(remoe_sim.report(trace_of([], Shape((5, 2), (2, 1), (10, 7))), policy="lru").html)


def test_the_limit_of_who_names_none():
    assert default_cache(one_layer([0], 9), "layer") == 3
    assert default_cache(one_layer([0], 2), "layer") == 1
    assert "that of one in 4 experts" in remoe_sim.report(one_layer([0, 1]), policy="lru").html


@pytest.fixture(scope="module")
def timed():
    return remoe_sim.report(DEMO, cache=8, policy="lru,lfu", device="jetson-orin-nx-16gb", overlap="none")


def test_times_are_those_of_replay_and_sweep(timed):
    assert [section.title for section in timed.sections][3:5] == ["Figures", "Times"]
    said, table, charts, unchecked = timed.sections[4].parts
    assert "misses are read from storage, overlap none" in said.text
    same = {"policy": "lru,lfu,belady", "device": "jetson-orin-nx-16gb", "overlap": "none"}
    for row, result in zip(table.rows, remoe_sim.replay(DEMO, cache=8, **same), strict=True):
        tpot = result.tpot_ms
        band = result.timed.band
        assert row[:4] == [result.policy + "*" * result.optimal, tpot["mean"], band.low, band.high]
        assert row[4:7] == [tpot["p50"], tpot["p95"], tpot["p99"]]
        assert sum(row[9:]) == pytest.approx(tpot["mean"])
    against, parts, spread = charts.charts
    rows = remoe_sim.sweep(DEMO, cache=8, **same)
    tip = next(spot.tip for spot in against.spots if f"lru: {rows['tpot_ms_mean'][0]:,.2f} ms" in spot.tip)
    assert tip.startswith(f"{rows['capacity_bytes'][0] / 2**20:,.0f} MiB of experts held")
    assert parts.parts == (("fixed", 0), ("dense layers", 1), ("experts", 2), ("waiting for storage", 4))
    for at in range(3):  # the bar of a policy is as high as its parts together
        own = parts.bars[at * 4 : at * 4 + 4]
        whole = parts.bottom - min(bar.top for bar in own)
        assert sum(bar.height for bar in own) == pytest.approx(whole, abs=0.05)
        assert whole / (parts.bottom - min(bar.top for bar in parts.bars)) == pytest.approx(
            table.rows[at][1] / max(row[1] for row in table.rows), abs=0.01
        )
    assert f"99 % of decode tokens take at most so long\nlru: {table.rows[0][6]:,.2f} ms" in "".join(
        spot.tip for spot in spread.spots if spot.tip.startswith("99 %")
    )
    assert any("assumed" in value for _, value, _ in unchecked.rows)
    text = " ".join(Tags(timed.html).texts)
    line = "--cache 8 --policy lru,lfu --device jetson-orin-nx-16gb --overlap none -o report.html"
    assert f"remoe-sim report demo.parquet {line}" in text


def test_sizes_of_the_model_where_the_trace_has_none():
    trace = remoe_sim.synth(tokens=200, layers=24, experts=32, top_k=4, request_tokens=50, prompt_tokens=10)
    assert trace.model.expert_bytes is None
    page = remoe_sim.report(trace, policy="lru", device="rtx-4090", model="gpt-oss-20b", scope="global")
    assert ("expert sizes", "47.5 MiB", "Those of gpt-oss-20b in bf16, not of the trace.") in page.sections[1].parts[
        0
    ].rows
    reproduce = page.sections[-1].parts[0].text
    assert "remoe-sim verdict" not in reproduce  # it knows no model, and so no sizes
    assert "--device rtx-4090 --model gpt-oss-20b --json" in reproduce
    own = remoe_sim.report(DEMO, cache=8, policy="lru", device="rtx-4090", phase="prefill")
    assert [part.kind for part in own.sections[4].parts] == ["text", "table", "facts"]  # no decode token, no figure
    with pytest.raises(ValueError, match="go with --device"):
        remoe_sim.report(DEMO, cache=8, model="gpt-oss-20b")
    with pytest.raises(ValueError, match="go with --device"):
        remoe_sim.report(DEMO, cache=8, overlap="layer")
    with pytest.raises(ValueError, match="order set with a device"):
        remoe_sim.report(DEMO, cache=8, policy="lru", device="rtx-4090", order="sequential")


def test_a_sweep(swept, tmp_path):
    html = remoe_sim.report(swept).html
    table = next(part for part in remoe_sim.report(swept).sections[2].parts)
    assert len(table.rows) == len(swept) == 12
    times = [row[[name for name, _ in table.columns].index("TPOT ms")] for row in table.rows]
    assert times == sorted(times) == sorted(swept["tpot_ms_mean"])
    assert html.count('class="chart"') == 6  # three of either device
    assert "demo.parquet; scope layer; rtx-4090" in html
    Tags(html)


def test_a_sweep_file_is_told_from_a_trace(tmp_path):
    path = tmp_path / "sweep.parquet"
    remoe_sim.sweep(DEMO, policy="lru", cache="8", output=path)
    done = CliRunner().invoke(cli.main, ["report", str(path), "-o", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.exception
    assert "1 cell" in (tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="cache given with a sweep"):
        remoe_sim.report(path, cache=8)


def test_unknown_arguments_are_named():
    with pytest.raises(ValueError, match="unknown argument 'cach'; did you mean 'cache'"):
        remoe_sim.report(DEMO, cach=8)


# --- what it is made of


def test_everything_from_a_trace_is_text():
    evil = "<script>alert(1)</script>\"'&"
    trace = one_layer([0, 1, 2] * 4)
    model = trace.model.__class__(**{**trace.model.__dict__, "name": evil, "quant": evil})
    trace = trace.__class__(
        trace.request, trace.position, trace.step, trace.phase, trace.layer_numbers, model, trace.source,
        origin={"format": evil, "path": evil}, notes=evil, path=evil,
    )  # fmt: skip
    html = remoe_sim.report(trace, policy="lru").html
    tags = Tags(html)
    assert html.count("alert(1)") >= 6
    assert "<script>alert" not in html
    assert sum(evil in text for text in tags.texts) >= 4


def test_the_file_needs_no_other(page, swept):
    for one in (page, remoe_sim.report(swept)):
        assert all(point.startswith(("#", "data:")) for point in Tags(one.html).points)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", one.html)
        assert "default-src 'none'" in one.html
        assert len(one.html.encode()) < MOST_BYTES
    assert page._repr_html_().startswith("<iframe srcdoc=")


@needs_traces
@compiled
@pytest.mark.parametrize("name", ["bigmoe/qwen.route.csv", "gpt-oss-20b/gptoss20b_decode_subset.npz"])
def test_pages_of_real_traces_are_small(name):
    trace = remoe_sim.import_trace(SHARED / name)
    page = remoe_sim.report(trace, policy="lru,lfu")
    assert len(page.html.encode()) < MOST_BYTES
    if "gpt" in name:
        assert facts(page)["duplicate requests"].endswith("of 206")


# --- requests that repeat others


@given(cases())
def test_prefixes_are_those_of_a_naive_comparison(case):
    found = routing_prefixes(case.trace)
    requests = {}
    for row in sorted(case.rows, key=lambda row: (row.request, row.position)):
        chosen = tuple(frozenset(one for one in decision or () if one is not None) for decision in row.decisions)
        requests.setdefault(row.request, []).append(chosen)
    chains = [tuple(requests[name]) for name in sorted(requests)]
    beginnings = [{chain[:n] for n in range(1, len(chain) + 1)} for chain in chains]
    shared = [
        sum(any(one in other for j, other in enumerate(beginnings) if j != i) for one in own)
        for i, own in enumerate(beginnings)
    ]
    event(f"anything shared: {any(shared)}")
    assert found.shared.tolist() == shared
    assert found.lengths.tolist() == [len(chain) for chain in chains]
    assert found.repeated_tokens == sum(map(len, chains)) - len(set().union(*beginnings))
    assert found.duplicates == len(chains) - len(set(chains))


def test_prompts_and_duplicates_by_hand():
    def request(number, tokens):
        return [Row(number, i, number, PREFILL, [[one % 4]]) for i, one in enumerate(tokens)]

    tokens = [(1, 2, 3), (1, 2, 3), (1, 2, 7)]  # 7 is routed as 3 is
    trace = trace_of([row for n, one in enumerate(tokens) for row in request(n, one)], Shape((4,), (1,), None))
    assert routing_prefixes(trace).distinct_prompts is None
    named = trace.__class__(**{
        name: getattr(trace, name) for name in ("request", "position", "step", "phase", "layer_numbers", "model",
                                                "source")
    }, token_id=np.array(tokens, np.int32).ravel())  # fmt: skip
    found = routing_prefixes(named)
    assert (found.prompts, found.distinct_prompts, found.duplicates, found.repeated_tokens) == (3, 2, 2, 6)
    assert found.beginning_alike(3) == 3
    assert facts(remoe_sim.report(named, policy="lru"))["distinct prompts"] == "2 of 3"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(least, span):
    ticks = nice_ticks(least, least + span)
    assert len(ticks) <= 7
    slack = 1e-9 * max(abs(least), span) + 1e-9
    assert all(least - slack <= one <= least + span + slack for one in ticks)


# --- in a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@needs_browser
@pytest.mark.once
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 375])
def test_pages_are_whole_in_a_browser(timed, swept, tab, tmp_path, width, dark):
    for name, one in (("trace", timed), ("sweep", remoe_sim.report(swept))):
        path = tmp_path / f"{name} <script>.html"
        one.write(path)
        tab.open(path, width, dark)
        assert tab.complaints == []
        assert tab.requested == [path.resolve().as_uri()]
        assert tab.value("document.documentElement.scrollWidth") <= width  # nothing sticks out
        drawn = "[...document.querySelectorAll('.plot')].map(e => [e.clientWidth, e.querySelectorAll('.spot').length])"
        charts = tab.value(drawn)
        assert len(charts) == one.html.count('class="chart"') > 0
        assert all(shown > 200 and spots for shown, spots in charts)
        assert tab.value("getComputedStyle(document.body).backgroundColor") == (
            "rgb(23, 24, 27)" if dark else "rgb(253, 253, 252)"
        )


@needs_browser
@pytest.mark.once
@pytest.mark.parametrize("width", [1280, 375])
def test_a_table_sorts_when_its_heading_is_clicked(page, tab, tmp_path, width):
    page.write(tmp_path / "page.html")
    tab.open(tmp_path / "page.html", width)
    column = "[...document.querySelectorAll('#layers tbody tr')].map(row => Number(row.cells[4].dataset.v))"
    before = tab.value(column)
    assert before != sorted(before)
    for reverse in (True, False):
        tab.click(*tab.middle("#layers th:nth-child(5) button"))
        assert tab.value(column) == sorted(before, reverse=reverse)
        word = "descending" if reverse else "ascending"
        assert tab.value("document.querySelector('#layers th:nth-child(5)').getAttribute('aria-sort')") == word
    assert tab.complaints == []


@needs_browser
@pytest.mark.once
def test_figures_and_the_map_show_values_below_the_pointer(page, tab, tmp_path):
    page.write(tmp_path / "page.html")
    tab.open(tmp_path / "page.html")
    tip = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
    assert tab.value(tip) == ""
    tab.move(*tab.middle(".plot .spot:nth-of-type(8)"))
    curve = remoe_sim.curve(DEMO, policy="lru", cache=[8])
    assert f"lru: {100 * curve[curve.layer == 'all'].decode_hit_rate.iloc[0]:.2f} %" in tab.value(tip)
    assert tab.value(tip).startswith("8 experts per layer")
    painted = "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 90, 90).data].some(x => x)"
    assert tab.value(painted)
    tab.value("document.querySelector('.map .scroll').scrollLeft = 0")
    x, y = tab.value(
        "(() => { const c = document.querySelector('canvas'); c.scrollIntoView({block: 'center'});"
        "const b = c.getBoundingClientRect(); return [b.x + 1, b.y + 1]; })()"
    )
    tab.move(x, y)
    first = remoe_sim.read_trace(DEMO).decisions(0).experts[0].tolist()
    assert tab.value(tip) == (
        f"request 0, position 0, prefill\nexpert 0: {'chosen' if 0 in first else 'not chosen'}\n"
        f"chosen here: {', '.join(map(str, first))}"
    )
    scrolls = "(() => { const s = document.querySelector('.map .scroll'); return s.scrollWidth > s.clientWidth; })()"
    assert tab.value(scrolls)


@needs_browser
@pytest.mark.once
def test_a_finger_shows_values_too(page, tab, tmp_path):
    page.write(tmp_path / "page.html")
    tab.open(tmp_path / "page.html", 375)
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    for selector, said in ((".plot .spot:nth-of-type(8)", "8 experts per layer"), ("canvas", "request ")):
        x, y = tab.middle(selector)
        tab.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        tip = tab.value("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
        assert tip.startswith(said)
        tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    tab.call("Emulation.setTouchEmulationEnabled", enabled=False)
    assert tab.complaints == []


@pytest.mark.once
def test_the_template_library_is_not_loaded_before_it_is_needed():
    assert "jinja2" not in cli.main.get_command(None, "report").callback.__globals__
    import subprocess

    code = "import sys; from remoe_sim import cli; cli.main.get_command(None, 'report'); print('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
