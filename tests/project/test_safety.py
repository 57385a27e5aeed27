"""No code comes from data, what a trace says is text wherever it is shown, and folders are in nothing passed on."""

import ast
import html
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import remoe_sim.policies
import remoe_sim.traces

import remoe_sim
from remoe_sim.figures._look import sheet
from tests.support.browser import browser, needs_browser
from tests.support.data import DEMO
from tests.support.pages import Tags
from tests.support.plain_files import written
from tests.support.verdicts import one_layer

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

PACKAGE = Path(remoe_sim.__file__).parent
FILES = [
    path
    for folder in (PACKAGE, *map(Path, remoe_sim.policies.__path__), *map(Path, remoe_sim.traces.__path__))
    for path in sorted(folder.rglob("*.py"))
]
# where and why: who names the file of a policy or a format means it to run; workers of a cluster get work from who
# started them; the subclass of the unpickler lets nothing through but containers and tensors, which
# test_import_sglang_recorder checks
ALLOWED = {
    ("compile.py", "pickle"), ("plugins.py", "exec_module"), ("cluster.py", "pickle"),
    ("worker.py", "pickle"), ("torch_files.py", "pickle"),
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "exec_module", "literal_eval"}
METHODS = {"exec_module", "system", "popen", "literal_eval"}
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "subprocess", "code"}
EVIL = "</title></script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>\"'&$x$ $\\\\frac"


def findings(tree, name):
    """What could run code, or read what does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            roots = [one.name.split(".")[0] for one in node.names]
            roots += [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []
            yield from ((name, root) for root in roots if root in MODULES)
        elif isinstance(node, ast.Call):
            whole = ast.unparse(node.func)
            called = whole.split(".")[-1]
            if called in (METHODS if "." in whole else CALLS) and whole != "platform.system":
                yield name, called
            told = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if ast.unparse(node.func) == "np.load" and told.get("allow_pickle") != "False":
                yield name, "np.load that may unpickle"
            if ast.unparse(node.func) == "torch.load" and told.get("weights_only") != "True":
                yield name, "torch.load that may unpickle"
            if told.get("trust_remote_code", "False") != "False" or told.get("shell", "False") != "False":
                yield name, ast.unparse(node)


def test_no_code_comes_from_data():
    found = {one for path in FILES for one in findings(ast.parse(path.read_text("utf-8")), path.name)}
    assert len(FILES) > 150
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    ["eval(x)", "import pickle", "from pickle import loads", "np.load(x)", "torch.load(x)", "os.system(x)",
     "np.load(x, allow_pickle=True)", "spec.loader.exec_module(x)", "compile(x, '', 'exec')", "f(x, shell=True)"],
)  # fmt: skip
def test_the_walk_finds(code):
    assert list(findings(ast.parse(code), "x.py"))


def evil_trace():
    """A trace that says nothing but HTML of itself."""
    trace = one_layer([0, 1, 2, 3] * 6)
    model = trace.model.__class__(**{**trace.model.__dict__, "name": EVIL, "quant": EVIL})
    about = {"format": EVIL, "path": EVIL, "sha256": EVIL}
    return trace.__class__(
        trace.request, trace.position, trace.step, trace.phase, trace.layer_numbers, model, trace.source,
        origin=about, notes=EVIL, path=EVIL,
    )  # fmt: skip


def evil_sweep():
    frame = remoe_sim.sweep(DEMO, policy="lru", cache="8,16")
    texts = [name for name in frame.columns if frame[name].dtype == object or str(frame[name].dtype).startswith("str")]
    for name in set(texts) & {"trace", "policy", "model", "device", "quant", "overlap", "version"}:
        frame[name] = EVIL
    return frame


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def pages():
    return {
        "trace": (remoe_sim.report(evil_trace(), policy="lru"), remoe_sim.report(one_layer([0, 1] * 9), policy="lru")),
        "sweep": (remoe_sim.report(evil_sweep()), remoe_sim.report(remoe_sim.sweep(DEMO, cache="8,16"))),
    }


@pytest.mark.parametrize("kind", ["trace", "sweep"])
def test_pages_hold_what_a_trace_says_as_text(pages, kind):
    page = pages[kind][0].html
    assert "<img" not in page
    assert any("onerror" in text for text in Tags(page).texts)


@needs_browser
@pytest.mark.once
@pytest.mark.parametrize("kind", ["trace", "sweep"])
def test_a_browser_shows_it_and_runs_nothing(pages, tab, tmp_path, kind):
    evil, good = pages[kind]
    counts = []
    for name, page in (("good", good), ("evil", evil)):
        page.write(tmp_path / f"{name}.html")
        tab.open(tmp_path / f"{name}.html")
        counts.append(tab.value("[document.scripts.length, document.images.length, document.title.length > 0]"))
    assert counts[0] == counts[1] == [counts[0][0], 0, True]
    assert tab.complaints == []
    assert tab.requested == [(tmp_path / "evil.html").resolve().as_uri()]
    assert tab.value("window.harmed") is None
    assert EVIL[-40:] in tab.value("document.body.textContent")


@needs_browser
@pytest.mark.once
def test_figures_in_a_browser(tab, tmp_path):
    drawn = remoe_sim.plot({EVIL: evil_trace(), "b": one_layer([0, 1] * 9)}, tmp_path, policy="lru", cache=2)
    assert len(drawn.files) > 3
    for path in drawn.files:
        tab.open(path)
        assert tab.complaints == []
        assert tab.value("document.querySelectorAll('script, image[href^=\"x\"]').length") == 0


def test_figures_are_whole_whatever_a_trace_is_called(tmp_path):
    drawn = remoe_sim.plot({EVIL: evil_trace(), "b": one_layer([0, 1] * 9)}, tmp_path, policy="lru", cache=2)
    said = ""
    for path in drawn.files:
        tree = ElementTree.fromstring(path.read_text("utf-8"))
        assert not [one for one in tree.iter() if one.tag.endswith("script")]
        said += path.read_text("utf-8")
    assert "<img" not in said


def test_notebooks_show_it_as_text(tmp_path):
    with sheet(EVIL, dark=False) as page:
        pass
    shown = [page._repr_html_(), evil_trace()._repr_html_(), remoe_sim.info(evil_trace())._repr_html_()]
    shown += [remoe_sim.replay(evil_trace(), cache=1, policy="lru")._repr_html_()]
    for one in shown:
        assert "<script" not in one
        assert "onerror" not in Tags(one.replace("<img alt", "<br alt")).points
        assert one.count("<img") == one.count("<img alt=")
    assert html.escape(EVIL) in shown[0]


def test_folders_are_in_nothing_that_is_passed_on(tmp_path):
    """Import, joining, synthesis, export, reports of traces and sweeps."""
    secret = tmp_path / "secret-folder"
    secret.mkdir()
    recording = written(secret, "long")
    trace = remoe_sim.import_trace([recording, recording])
    files = [secret / name for name in ("t.parquet", "s.parquet", "t.csv", "t.npz", "page.html", "sweep.html")]
    remoe_sim.write_trace(trace, files[0])
    read = remoe_sim.read_trace(files[0])
    assert json.dumps(read.origin["path"]) == '["t.csv", "t.csv"]'
    remoe_sim.write_trace(remoe_sim.synth(like=files[0], tokens=20), files[1])
    for path in files[2:4]:
        remoe_sim.export(read, path)
    remoe_sim.report(files[0], policy="lru", output=files[4])
    remoe_sim.sweep(files[0], policy="lru", cache="1,2", output=secret / "sweep.parquet")
    remoe_sim.report(secret / "sweep.parquet", output=files[5])
    for path in files:
        assert path.stat().st_size
        assert b"secret-folder" not in path.read_bytes(), path.name
