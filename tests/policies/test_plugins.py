"""A policy is one file: found where policies lie, through an entry point, or by its path."""

import json
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli, policies
from remoe_sim.policy import Policy, find
from remoe_sim.util import plugins
from tests.oracle.naive import DECODE, Row
from tests.support.strategies import Shape, trace_of

NEAREST = '''"""A stack policy."""

import numpy as np

from remoe_sim.policy import StackPolicy


class Nearest(StackPolicy):
    name = "nearest-{which}"
    summary = "experts far from an id go first"
    source = "made up"

    def __init__(self, centre=0):
        self.centre = centre

    def keys(self, stream):
        return np.abs(stream.entries.astype(np.int64) - self.centre)
'''
LAST_IN = '''"""A compiled slot policy: a stack of entries in row 1, its height in the last column."""

from remoe_sim.policy import CompiledSlotPolicy


class LastIn(CompiledSlotPolicy):
    name = "last-in"
    summary = "the one that entered last goes first"
    state_rows = 2

    @staticmethod
    def setup(state, limit):
        state[1, -1] = 0

    @staticmethod
    def hit(state, entry):
        pass

    @staticmethod
    def admit(state, entry):
        pass

    @staticmethod
    def victim(state, protected):
        place = state[1, -1] - 1
        while place >= 0 and protected[state[1, place]]:
            place -= 1
        if place < 0:
            return -1
        entry = state[1, place]
        for after in range(place + 1, state[1, -1]):
            state[1, after - 1] = state[1, after]
        state[1, -1] -= 1
        return entry

    @staticmethod
    def insert(state, entry):
        state[1, state[1, -1]] = entry
        state[1, -1] += 1
'''
OURS = ["belady", "fifo", "lfu", "lfu-forget", "lru"]
TRACE = trace_of([Row(0, i, i, DECODE, [[i % 4, 4]]) for i in range(12)], Shape((6,), (2,), (3,)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which policies are found for the length of a test."""
    before = set(sys.modules)
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    plugins.plugins.cache_clear()
    yield tmp_path
    plugins.plugins.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith(("remoe_sim.policies.", "remoe_sim_user_")):
            del sys.modules[name]
            vars(policies).pop(name.rpartition(".")[2], None)


def listed():
    result = CliRunner().invoke(cli.main, ["list", "policies", "--json"])
    assert result.exit_code == 0, result.exception
    return {item["name"]: item for item in json.loads(result.stdout)["items"]}


def test_ours_are_found():
    assert set(OURS) <= set(listed())
    assert all(item["summary"] and item["source"] for item in listed().values())


@pytest.mark.parametrize("file", ["nearest_zero.py", "called_otherwise.py"])
def test_a_file_among_the_policies(file, folder):
    before = listed()
    plugins.plugins.cache_clear()
    (folder / file).write_text(NEAREST.format(which="zero"))
    (folder / "no_policy.py").write_text("from remoe_sim.policy import StackPolicy\n")
    after = listed()
    assert after.keys() - before.keys() == {"nearest-zero"}
    assert after["nearest-zero"]["summary"] == "experts far from an id go first"
    plugins.plugins.cache_clear()
    # 4 is in every group, and of the others 0 stays and 1, 2, 3 take turns
    assert remoe_sim.replay(TRACE, 3, policy="nearest-zero")["nearest-zero"].hits == 11 + 2
    frame = remoe_sim.curve(TRACE, "nearest-zero,nearest-zero:centre=3", cache=3)
    assert frame["policy"].unique().tolist() == ["nearest-zero", "nearest-zero:centre=3"]
    with pytest.raises(ValueError, match=r"unknown policy 'nearest-one'; did you mean 'nearest-zero'\? .*nearest-zero"):
        remoe_sim.replay(TRACE, 3, policy="nearest-one")


def test_a_compiled_policy(folder):
    (folder / "last_in.py").write_text(LAST_IN)
    result = remoe_sim.replay(TRACE, 3, policy="last-in,belady")["last-in"]
    assert (result.hits, result.evictions) == (13, 8)  # once it is full, only 0 and 4 hit
    assert result.misses == result.cold_misses + result.capacity_misses == 11


def test_a_file_by_its_path(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "mine.py"
    path.write_text(NEAREST.format(which="mine"))
    report = remoe_sim.replay(TRACE, 3, policy=[str(path), f"{path}:centre=3", "lru"])
    assert [result.policy for result in report] == ["nearest-mine", "nearest-mine:centre=3", "lru"]
    assert report["nearest-mine"].hits == 13
    assert "nearest-mine" not in listed()
    for text, sentence in (
        ("def (", "cannot be loaded: SyntaxError"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("from remoe_sim.policy import StackPolicy", "defines no policy; derive a class with a name from StackPolicy"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=sentence) as error:
            remoe_sim.replay(TRACE, 3, policy=str(path))
        assert "\n" not in str(error.value)


def test_options(folder):
    (folder / "nearest_zero.py").write_text(NEAREST.format(which="zero"))
    for text, sentence in (
        ("nearest-zero:center=1", "unknown option of policy 'nearest-zero' 'center'; did you mean 'centre'"),
        ("nearest-zero:centre=x", "option 'centre=x' of policy 'nearest-zero' is not possible; centre takes int"),
        ("nearest-zero:centre", "option 'centre' of policy 'nearest-zero' is not possible; centre takes int"),
        ("lru:centre=1", "unknown option of policy 'lru' 'centre'; valid are none"),
    ):
        with pytest.raises(ValueError, match=sentence):
            remoe_sim.replay(TRACE, 3, policy=text)


def test_another_distribution(folder, monkeypatch):
    (folder / "nearest_zero.py").write_text(NEAREST.format(which="zero"))
    theirs = type("Theirs", (plugins.find_plugin("remoe_sim.policies", Policy, "nearest-zero"),), {"name": "theirs"})
    entries = {"remoe_sim.policies": [SimpleNamespace(load=lambda: theirs)]}
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries.get(group, []))
    plugins.plugins.cache_clear()
    assert "theirs" in listed()
    assert remoe_sim.replay(TRACE, 3, policy="theirs")["theirs"].hits == 13


def test_one_name_for_two_files_is_an_error_that_names_both(folder, monkeypatch, tmp_path_factory):
    (folder / "one.py").write_text(NEAREST.format(which="zero"))
    (folder / "other.py").write_text(NEAREST.format(which="zero"))
    plugins.plugins.cache_clear()
    for call in (lambda: plugins.plugins("remoe_sim.policies", Policy), lambda: find.find_policy("nearest-zero")):
        with pytest.raises(ValueError, match=r"policy 'nearest-zero' is in .*one\.py and in .*other\.py; rename one"):
            call()
    (folder / "other.py").unlink()
    path = tmp_path_factory.mktemp("elsewhere") / "mine.py"
    path.write_text(NEAREST.format(which="zero"))
    assert find.find_policy(str(path)).label == "nearest-zero"  # which of the two is meant is clear
    with pytest.raises(ValueError, match=r"policies '.*mine\.py' and 'nearest-zero' are both called 'nearest-zero'"):
        remoe_sim.replay(TRACE, 3, policy=[str(path), "lru", "nearest-zero"])
    (folder / "both.py").write_text(NEAREST.format(which="a") + "\n\nclass Second(Nearest):\n    name = 'second'\n")
    plugins.plugins.cache_clear()
    with pytest.raises(ValueError, match=r"both\.py has more than one policy with a name \(Nearest and Second\)"):
        find.find_policy("second")


def test_the_same_class_from_two_places_is_one_policy(folder, monkeypatch):
    lru = plugins.find_plugin("remoe_sim.policies", Policy, "lru")
    entries = {"remoe_sim.policies": [SimpleNamespace(load=lambda: lru)]}
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries.get(group, []))
    plugins.plugins.cache_clear()
    assert plugins.plugins("remoe_sim.policies", Policy)["lru"] is lru


OPTIONS = """
from remoe_sim.policy import SlotPolicy


class Optional(SlotPolicy):
    name = "optional"

    def __init__(self, flag=True, most=None, share=0.5, kinds=()):
        self.given = flag, most, share
"""


def test_options_are_converted_to_the_type_of_their_defaults(tmp_path):
    path = tmp_path / "optional.py"
    path.write_text(OPTIONS)
    for text, given in (
        ("", (True, None, 0.5)),
        (":flag=false", (False, None, 0.5)),
        (":flag=No:most=3", (False, 3, 0.5)),
        (":flag=1:most=0.25:share=1", (True, 0.25, 1.0)),
        (":most=few", (True, "few", 0.5)),
    ):
        assert find.find_policy(f"{path}{text}").given == given
    for text, sentence in (
        (":flag=maybe", "option 'flag=maybe' of policy '.*' is not possible; give true or false"),
        (":share=half", "option 'share=half' of policy '.*' is not possible; share takes float"),
        (":kinds=a", r"option 'kinds=a' of policy '.*' cannot be given as text; its default is \(\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            find.find_policy(f"{path}{text}")
