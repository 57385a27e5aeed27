"""Every figure from small and odd data: what it shows, its units, both looks, and files that are whole or absent."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli, figures
from remoe_sim.figures._look import DARK, LIGHT
from remoe_sim.figures._material import Material, NotPossibleError
from remoe_sim.figures._panels import split_rows
from remoe_sim.figures.capacity import knee
from remoe_sim.figures.mapped_file import cliff_rows
from remoe_sim.figures.traces import routing_rows
from remoe_sim.trace.trace import InMemory
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.data import DEMO
from tests.support.strategies import Shape, trace_of

OF_TRACES = {"reuse_per_layer", "reuse_against_window", "popularity", "routing"}
OF_CURVES = {"hit_rate", "regret"}
OF_SWEEPS = {"bytes_per_token", "tpot", "tpot_parts"}
OF_REPORTS = {"token_latency", "best_split", "cliff"}
UNIT = re.compile(r"\((%.*|.*experts.*|ms.*|MiB|GiB|decode tokens.*|tokens.*|the model's number|lookups|number)\)$")

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes


def small(phase=DECODE, decisions=([0], [1], [1], [2])):
    """One layer, top-1, one request."""
    rows = [Row(0, i, i, phase, [one]) for i, one in enumerate(decisions)]
    return trace_of(rows, Shape((4,), (1,), (1000,)))


def check(figure):
    """Axes have units, no line runs out of its panel at the top, and every kind of file can be written."""
    assert figure.get_suptitle()
    for axes in figure.axes:
        tops = [np.nanmax(line.get_ydata()) for line in axes.get_lines() if len(line.get_ydata())]
        assert all(top <= axes.get_ylim()[1] for top in tops)
    labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel()) if label]
    assert len(labels) >= 2
    for label in labels:
        assert UNIT.search(label), label
    assert figure.picture("svg").rstrip().endswith(b"</svg>")
    assert figure.picture("pdf").startswith(b"%PDF")
    assert figure.picture("png").startswith(b"\x89PNG")
    return figure


@pytest.fixture(scope="module")
def timed():
    return remoe_sim.sweep(DEMO, policy="lru,belady", cache="8:24:8", device="rtx-4090,jetson-orin-nx-16gb")


def test_figures_are_found_and_none_is_untested():
    assert set(figures.functions()) == OF_TRACES | OF_CURVES | OF_SWEEPS | OF_REPORTS
    assert figures.names() == sorted(name.replace("_", "-") for name in figures.functions())
    with pytest.raises(AttributeError, match="figures are best_split"):
        figures.pie  # noqa: B018


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", sorted(OF_TRACES))
def test_of_a_trace(name, dark):
    """Of a bundled trace, and of one layer with top-1."""
    for trace in (remoe_sim.read_trace(DEMO), small()):
        figure = check(getattr(figures, name)(trace, dark=dark))
        assert figure.get_facecolor() == pytest.approx(_rgba((DARK if dark else LIGHT).paper))


def _rgba(colour):
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


@pytest.mark.parametrize("name", sorted(OF_TRACES - {"popularity"}))
def test_without_decode_tokens(name):
    with pytest.raises(NotPossibleError, match="no decode token"):
        getattr(figures, name)(small(PREFILL))


def test_nothing_was_chosen():
    with pytest.raises(NotPossibleError, match="no expert was chosen"):
        figures.popularity(small(decisions=[None, None]))
    with pytest.raises(NotPossibleError, match="was routed"):
        figures.routing(small(decisions=[None, None]), layer=1)


def test_two_traces_are_two_lines():
    both = {"original": remoe_sim.read_trace(DEMO), "tuned": small()}
    axes = figures.reuse_per_layer(both).axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["original: 39.2 % over all layers", "tuned: 33.3 % over all layers"]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines[labels[1]].get_ydata().tolist() == pytest.approx([1 / 3])
    frame = pd.concat([remoe_sim.reuse(trace).assign(trace=name) for name, trace in both.items()])
    assert figures.reuse_per_layer(frame).axes[0].get_legend_handles_labels()[1] == labels
    left = figures.reuse_per_layer(both | {"prompt": small(PREFILL)}).axes[0].get_legend_handles_labels()[1]
    assert left == labels


def test_streaks_by_hand():
    """Expert 1 is chosen twice in a row; position 3 is missing, so the last two are streaks of their own."""
    rows = [Row(0, i, i, DECODE, [[1] if i in (0, 1) else [2]]) for i in (0, 1, 2, 4)]
    frame = routing_rows(trace_of(rows, Shape((4,), (1,), None)))
    assert frame[["position", "expert", "streak"]].to_numpy().tolist() == [[0, 1, 2], [1, 1, 2], [2, 2, 1], [4, 2, 1]]
    assert frame.attrs["experts"] == 4
    demo = remoe_sim.read_trace(DEMO)
    longest = routing_rows(demo, layer=3)
    counts = pd.Series(demo.request[demo.phase == 1]).value_counts()
    assert longest["position"].nunique() == counts.max()
    assert (longest.groupby("position").size() == 4).all()
    with pytest.raises(ValueError, match="layer 99 is no MoE layer"):
        routing_rows(demo, layer=99)
    with pytest.raises(ValueError, match="request 99 has no decode token"):
        routing_rows(demo, request=99)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("policies", ["lru", "lru,belady", "belady"])
def test_of_curves(policies, dark):
    for trace in (small(), small(PREFILL)):
        frame = remoe_sim.curve(trace, policy=policies)
        check(figures.hit_rate(frame, dark=dark))
        if policies == "lru,belady":
            check(figures.regret(frame, dark=dark))
        else:
            with pytest.raises(NotPossibleError, match="belady"):
                figures.regret(frame)


def test_what_a_curve_shows():
    trace = remoe_sim.read_trace(DEMO)
    frame = remoe_sim.curve(trace, policy="lru,belady", phase="decode")
    axes = figures.hit_rate(frame).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    overall = frame[(frame["layer"] == "all") & (frame["policy"] == "lru")]
    assert lines["lru"].get_xdata().tolist() == overall["capacity"].tolist()
    assert lines["lru"].get_ydata().tolist() == overall["decode_hit_rate"].tolist()
    at = replay_at(trace, 8)
    shown = {line.get_label(): line for line in figures.regret(frame).axes[0].get_lines()}["lru"]
    assert shown.get_ydata()[7] == pytest.approx(at["lru"].regret / at["lru"].lookups)


def replay_at(trace, cache):
    return remoe_sim.replay(trace, cache=cache, policy="lru,belady", phase="decode")


def test_the_knee():
    capacity = np.arange(1.0, 11)
    assert knee(capacity, np.minimum(capacity / 4, 1)) == 3  # straight up to 4, then flat
    assert knee(capacity, capacity / 10) is None
    assert knee(capacity[:2], np.array([0.5, 1.0])) is None
    assert knee(capacity, np.zeros(10)) is None


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", sorted(OF_CURVES | OF_SWEEPS))
def test_of_a_sweep(name, dark, timed):
    check(getattr(figures, name)(timed, dark=dark))
    one = timed[(timed["device"] == "rtx-4090") & (timed["capacity"] == 8)]
    if name != "regret":
        one = one[one["policy"] == "lru"]
    check(getattr(figures, name)(one, dark=dark))


def test_what_a_sweep_shows(timed):
    figure = figures.tpot_parts(timed)
    keys = [(device, policy) for device in ("rtx-4090", "jetson-orin-nx-16gb") for policy in ("lru", "belady")]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"demo, {device}, {policy}" for device, policy in keys]
    tops = [max(bar.get_y() + bar.get_height() for bar in axes.patches) for axes in figure.axes]
    most = timed.groupby(["device", "policy"])["tpot_ms_mean"].max()
    assert tops == pytest.approx([most[key] for key in keys])
    for axes, top in zip(figure.axes, tops, strict=True):
        assert axes.get_ylim()[1] >= top
    assert len(figures.hit_rate(timed).axes) == 1  # devices hit alike
    assert len(figures.tpot(timed).axes) == 2


def test_times_are_drawn_with_their_bands(timed):
    figure = figures.tpot(timed)
    for axes, device in zip(figure.axes, ("rtx-4090", "jetson-orin-nx-16gb"), strict=True):
        own = timed[timed["device"] == device]
        areas = [area.get_datalim(axes.transData) for area in axes.collections]
        assert len(areas) == own["policy"].nunique()
        assert max(area.y1 for area in areas) == pytest.approx(own["tpot_ms_high"].max())
        assert min(area.y0 for area in areas) == pytest.approx(own["tpot_ms_low"].min())
        assert axes.get_ylim()[1] >= own["tpot_ms_high"].max()
    before = figures.tpot(timed.drop(columns=["tpot_ms_low", "tpot_ms_high"]))
    assert not any(axes.collections for axes in before.axes)


def test_panels_name_what_tells_them_apart(timed):
    other = timed.assign(overlap="none")
    titles = [
        title for title, _ in split_rows(pd.concat([timed, other]), ("trace", "scope", "device", "quant", "overlap"))
    ]
    assert titles[0] == "demo, rtx-4090, overlap layer"
    many = pd.concat([timed.assign(batch=size) for size in range(1, 6)])
    with pytest.raises(ValueError, match="10 combinations do not fit"):
        figures.tpot(many)


def test_sweeps_that_know_less():
    plain = remoe_sim.sweep(trace_of([Row(0, i, i, DECODE, [[i % 2]]) for i in range(4)], Shape((4,), (1,), None)))
    for name in OF_SWEEPS:
        with pytest.raises(NotPossibleError, match="sweep with"):
            getattr(figures, name)(plain)
    with pytest.raises(ValueError, match="no column 'policy'"):
        figures.tpot(pd.DataFrame({"x": [1]}))


@pytest.mark.heavy("numba")  # takes long
@pytest.mark.parametrize("dark", [False, True])
def test_of_reports(dark):
    trace = remoe_sim.read_trace(DEMO)
    for policies in ("lru", "lru,belady"):
        report = remoe_sim.replay(trace, cache=8, policy=policies, device="rtx-4090")
        figure = check(figures.token_latency(report, dark=dark))
        labels = figure.axes[0].get_legend_handles_labels()[1]
        assert labels[0].startswith(f"lru: p50 {report['lru'].tpot_ms['p50']:.3g}, p95 ")
        check(figures.best_split(remoe_sim.split(trace, cache=8, policy=policies), dark=dark))
    check(figures.best_split(remoe_sim.split(small(), cache=1), dark=dark))
    with pytest.raises(ValueError, match="replay with a device"):
        figures.token_latency(remoe_sim.replay(trace, cache=8))
    check(figures.best_split(remoe_sim.split(trace, cache=8, policy="belady,lru,lfu")))
    with pytest.raises(ValueError, match="of 4 policies"):
        figures.best_split(remoe_sim.split(trace, cache=8, policy="lru,lfu,fifo,belady"))


@pytest.mark.parametrize("dark", [False, True])
def test_of_a_mapped_file(dark):
    """A line per page rule that never rises under lru, falls where what a token reads fits, and ends as resident."""
    rows = cliff_rows(small_sized(), "jetson-orin-nx-16gb")
    drawn = check(figures.cliff(rows, dark=dark)).axes[0]
    assert drawn.get_legend_handles_labels()[1] == ["pages by lru", "pages by two-list"]
    assert [text.get_text().partition(":")[0] for text in drawn.texts] == ["read by a token", "file"]
    times = rows[rows["rule"] == "lru"].sort_values("memory_bytes")["tpot_ms"]
    assert times.is_monotonic_decreasing
    resident = remoe_sim.replay(small_sized(), 0, policy="lru", device="jetson-orin-nx-16gb", residency="resident")
    assert times.iloc[-1] == resident["lru"].tpot_ms["mean"] < times.iloc[0]
    left = check(figures.cliff(rows.assign(left_bytes=rows["file_bytes"] // 2))).axes[0]
    assert left.texts[-1].get_text().startswith("left by the device")
    with pytest.raises(NotPossibleError, match="no decode tokens"):
        cliff_rows(small_sized(decode=False), "jetson-orin-nx-16gb")


def small_sized(decode=True):
    """The requests of a bundled trace's first tokens, in one phase."""
    trace = remoe_sim.read_trace(DEMO)
    rows = np.arange(40)
    layers = InMemory([trace.decisions(at).take(rows) for at in range(trace.moe_layers)])
    columns = {name: getattr(trace, name)[rows] for name in ("request", "position", "step")}
    return replace(trace, **columns, phase=np.full(40, int(decode), np.uint8), source=layers, token_id=None)


def test_a_picture_is_the_same_every_time_and_shows_itself():
    first, second = (figures.reuse_per_layer(small()) for _ in range(2))
    assert first.picture() == second.picture()
    assert first._repr_html_().startswith('<img alt="Expert reuse per layer"')


# --- the command


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli.main, ["plot", *arguments])


def test_the_command_draws_what_is_possible(run, tmp_path):
    done = run(DEMO, "-o", "new/figures")
    assert done.exit_code == 0, done.exception
    assert sorted(path.name for path in (tmp_path / "new" / "figures").iterdir()) == [
        f"{name}.svg"
        for name in ("hit-rate", "popularity", "regret", "reuse-against-window", "reuse-per-layer", "routing")
    ]
    assert done.stdout.splitlines()[0] == "new/figures/hit-rate.svg"
    assert "not drawn: bytes-per-token, tpot, tpot-parts: needs the file of a sweep" in done.stderr
    assert "not drawn: best-split: needs the size of a cache" in done.stderr
    assert "not drawn: cliff: needs --device" in done.stderr
    assert "not drawn: token-latency: needs --device" in done.stderr


@pytest.mark.heavy("numba")  # takes long
def test_the_command_with_everything(run, tmp_path):
    remoe_sim.sweep(DEMO, policy="lru,belady", cache="8,16", device="rtx-4090", output="sweep.parquet")
    arguments = [
        DEMO,
        "sweep.parquet",
        "--cache",
        "8",
        "--device",
        "rtx-4090",
        "--format",
        "png,pdf",
        "--dark",
    ]
    done = run(*arguments, "-o", "all")
    assert done.exit_code == 0, done.exception
    said = done.stderr.splitlines()  # what is assumed of the times, and nothing else
    assert [line.partition(",")[0] for line in said] == [
        "remoe-sim: device rtx-4090: assumed", "remoe-sim: host desktop-ddr5-6000: assumed",
        "remoe-sim: storage nvme-pcie4: assumed", "remoe-sim: engine llama.cpp: assumed",
        "remoe-sim: the model has no card",
        "remoe-sim: not drawn: cliff: device 'rtx-4090' has a memory of its own",
    ]  # fmt: skip
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        f"{name}.{kind}" for name in figures.names() if name != "cliff" for kind in ("png", "pdf")
    }


def test_several_traces_and_many_panels(run, tmp_path):
    for name in ("a", "b"):
        remoe_sim.write_trace(small(decisions=[[0], [1], [ord(name) % 4]]), f"{name}.parquet")
    done = run("a.parquet", "b.parquet", "--figure", "routing,best-split", "--cache", "1", "-o", ".", "--policy",
               "lru,lfu,fifo,belady")  # fmt: skip
    assert done.stdout.split() == [
        f"{name}.svg"
        for name in ("routing-a", "routing-b", "best-split-a", "best-split-a-2", "best-split-b", "best-split-b-2")
    ]
    many = remoe_sim.sweep(DEMO, policy="lru", cache="8", batch="trace,1,2,3,4,5,6,7")
    plots = remoe_sim.plot(many, "many", figure="hit-rate")
    assert [path.name for path in plots.files] == ["hit-rate.svg", "hit-rate-2.svg"]
    material = Material({}, many)
    pages = [draw(dark=False) for _, draw in figures.hit_rate.pages(material)]
    titles = [axes.get_title(loc="left") for page in pages for axes in page.axes]
    assert titles == ["demo", *(f"demo, batch {size}" for size in range(1, 8))]


def test_files_are_whole_or_absent(run, tmp_path, monkeypatch):
    from remoe_sim.figures._look import Sheet

    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "routing.svg").write_text("before")

    def broken(self, *_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(Sheet, "savefig", broken)
    done = run(DEMO, "--figure", "routing", "-o", "f")
    assert done.exit_code != 0
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["routing.svg"]
    assert (tmp_path / "f" / "routing.svg").read_text() == "before"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((DEMO, "--figure", "pie"), "unknown figure 'pie'; valid are best-split"),
        ((DEMO, "--format", "gif"), "unknown format 'gif'; valid are pdf, png, svg"),
        ((DEMO, "--policy", "nothing"), "unknown policy 'nothing'"),
        ((DEMO, "--device", "nothing", "--cache", "2"), "unknown device 'nothing'"),
        ((DEMO, "--layer", "99"), "layer 99 is no MoE layer"),
        ((DEMO, "--figure", "tpot"), "no figure is possible: tpot needs the file of a sweep"),
        (("absent.parquet",), "absent.parquet"),
    ],
)
def test_what_is_not_possible(run, arguments, why):
    done = run(*arguments, "-o", "f")
    assert why in str(done.exception)
    assert isinstance(done.exception, ValueError | OSError)


def test_nothing_is_loaded_before_it_is_needed():
    code = "import remoe_sim, sys; remoe_sim.figures.names; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trace_and_plots_show_themselves(tmp_path):
    assert "<td>4 (0 prefill, 4 decode)</td>" in small()._repr_html_()
    shown = remoe_sim.plot(small(), tmp_path, figure="popularity,tpot")._repr_html_()
    assert "popularity.svg</li>" in shown
    assert "not drawn: tpot: needs the file of a sweep" in shown
