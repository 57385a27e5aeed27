"""A policy of the user's own: one file, by its path or brought by an installed package, and what can go wrong."""

import json
import sys

import numpy as np
import pytest

import remoe_sim
from remoe_sim import cli
from tests.oracle import naive
from tests.oracle.naive import DECODE, Row
from tests.oracle.oracle import assert_equal, expected
from tests.support.data import DEMO
from tests.support.strategies import Case, Shape, trace_of
from tests.support.user_policies import FAVOURITE, FEWEST_HITS, shell


class NaiveFewestHits(naive.SlotPolicy):
    def hit(self, entry):
        self.queue[entry] += 1

    def insert(self, entry):
        self.queue[entry] = 0

    def victim(self, protected):
        worst = min((entry for entry in self.queue if entry not in protected), key=self.queue.get, default=None)
        self.queue.pop(worst, None)
        return worst


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes ./mine.py in the folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    yield lambda text: (tmp_path / "mine.py").write_text(text)
    for name in [name for name in sys.modules if name.startswith("remoe_sim_user_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def case():
    random, shape = np.random.default_rng(3), Shape((9, 7), (3, 2), (4, 4))
    rows = [
        Row(0, i, i, DECODE, [random.choice(9, 3, False).tolist(), random.choice(7, 2, False).tolist()])
        for i in range(40)
    ]
    return Case(rows, trace_of(rows, shape), shape)


def test_fifteen_lines_are_a_policy(mine, case, monkeypatch):
    mine(FEWEST_HITS)
    assert len([line for line in FEWEST_HITS.splitlines() if line]) <= 15
    monkeypatch.setitem(naive.SLOT, "fewest-hits", NaiveFewestHits)
    for scope in ("layer", "global"):
        for admission in ("mandatory", "bypass"):
            arguments = {"scope": scope, "admission": admission}
            report = remoe_sim.replay(case.trace, cache=4, policy="./mine.py", **arguments)
            assert_equal(report["fewest-hits"], expected(case, "fewest-hits", arguments, cache=4))


def test_it_runs_on_the_command_line(mine):
    mine(FEWEST_HITS)
    code, out, err = shell("replay", DEMO, "--policy", "./mine.py,lru", "--cache", 8, "--phase", "prefill")
    assert (code, "fewest-hits" in out) == (0, True), err


def test_an_order_gets_the_curve_in_one_pass(mine, case, capsys):
    mine(FAVOURITE)
    frame = remoe_sim.curve(case.trace, "./mine.py")
    assert capsys.readouterr().out.splitlines() == ["one pass"] * case.trace.moe_layers
    for capacity in (1, 3, 7):
        at = (frame["layer"] == "all") & (frame["capacity"] == capacity)
        report = remoe_sim.replay(case.trace, cache=capacity, policy="./mine.py")
        assert frame[at]["hits"].tolist() == [report["favourite"].hits]


def test_options_are_typed_behind_the_path(mine, case):
    mine(FAVOURITE)
    texts = ["./mine.py", "./mine.py:id=5", "./mine.py:power=0.5:id=2"]
    report = remoe_sim.replay(case.trace, cache=4, policy=texts)
    assert [result.policy for result in report] == ["favourite", "favourite:id=5", "favourite:power=0.5:id=2"]
    assert len({result.hits for result in report}) > 1
    with pytest.raises(ValueError, match=r"unknown option of policy './mine\.py' 'od'; valid are id, power"):
        remoe_sim.replay(case.trace, cache=4, policy="./mine.py:od=5")


@pytest.fixture
def distribution(tmp_path):
    """A folder like one in which a package with a policy is installed."""
    folder = tmp_path / "site"
    (folder / "theirs-1.0.dist-info").mkdir(parents=True)
    (folder / "theirs.py").write_text(FEWEST_HITS)
    (folder / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = "[remoe_sim.policies]\nfewest-hits = theirs:FewestHits\n"
    (folder / "theirs-1.0.dist-info" / "entry_points.txt").write_text(points)
    return folder


@pytest.mark.heavy("numba")  # takes long
def test_an_installed_package_brings_one(distribution, tmp_path):
    code, out, err = shell("list", "policies", "--json", path=distribution)
    assert code == 0, err
    listed = {item["name"]: item for item in json.loads(out)["items"]}
    assert listed["fewest-hits"]["kind"] == "slot"
    arguments = ["--cache", 4, "--policy", "fewest-hits,lru", "--phase", "prefill"]
    code, out, err = shell("replay", DEMO, *arguments, path=distribution)
    assert (code, "fewest-hits" in out) == (0, True), err
    (distribution / "theirs.py").write_text("import nothing_of_this_name")
    code, out, err = shell("list", "policies", path=distribution)
    assert (code, out) == (2, "")
    assert "plug-in 'fewest-hits' (theirs:FewestHits) cannot be loaded: ModuleNotFoundError: No module" in err


def stack(answer):
    return FAVOURITE.replace("np.abs(stream.entries.astype(float) - self.id) ** self.power", answer)


def slot(victim):
    return FEWEST_HITS.replace("return worst", f"return {victim}")


BROKEN = {
    "class (": "policy './mine.py' cannot be loaded: SyntaxError: invalid syntax (mine.py, line 1)",
    "import numpyy": "policy './mine.py' cannot be loaded: ModuleNotFoundError: No module named 'numpyy'",
    "x = 1": "policy './mine.py' defines no policy; derive a class with a name from StackPolicy or SlotPolicy",
    FEWEST_HITS.replace("name =", "title ="): "policy './mine.py' defines no policy; derive a class with a name from ",
    slot("0"): "policy 'fewest-hits' chose a victim that is not resident, or is protected; correct its victim()",
    slot("10**6"): "policy 'fewest-hits' chose a victim that is not resident, or is protected; correct its victim()",
    slot("None"): "policy 'fewest-hits' chose None as a victim; its victim() must return a resident entry, or -1",
    slot("'3'"): "policy 'fewest-hits' chose '3' as a victim; its victim() must return a resident entry, or -1",
    stack("stream.entries[:3]"): "policy 'favourite' gave keys that are no array of ",
    stack("stream.entries / 0.0"): "policy 'favourite' gave keys that are no array of ",
    stack("['a'] * stream.entries.size"): "policy 'favourite' gave keys that are no array of ",
    FAVOURITE.replace(
        "id: int = 0", "id"
    ): "policy './mine.py' cannot be made: option 'id' of its __init__ needs a def",
}


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
def test_a_broken_file_is_one_sentence(mine, text, monkeypatch, capsys):
    mine(text)
    arguments = ["replay", DEMO, "--policy", "./mine.py", "--cache", "4", "--phase", "prefill"]
    monkeypatch.setattr(sys, "argv", ["remoe-sim", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.run()
    _, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert err.startswith(f"remoe-sim: {BROKEN[text]}")
    assert err.count("\n") == 1


def test_a_file_that_is_not_there(mine, monkeypatch):
    with pytest.raises(ValueError, match=r"policy './my\.py': there is no such file; give the path of a Python file"):
        remoe_sim.replay(DEMO, cache=4, policy="./my.py")


def test_what_a_policy_needs_is_said(mine):
    mine(FAVOURITE.replace("    summary", "    needs_training, admissions = True, ('bypass',)\n    summary"))
    one = remoe_sim.read_trace(DEMO).select(requests=[0])  # of one request none can be held out
    with pytest.raises(ValueError, match="'favourite' learns from another trace; name it with --train"):
        remoe_sim.replay(one, cache=4, policy="./mine.py", admission="bypass")
    with pytest.raises(
        ValueError, match="'favourite' does not exist under admission mandatory; use --admission bypass"
    ):
        remoe_sim.replay(DEMO, cache=4, policy="./mine.py", train=DEMO)
    report = remoe_sim.replay(DEMO, cache=4, policy="./mine.py", admission="bypass", train=DEMO, phase="prefill")
    assert report["favourite"].lookups > 0
