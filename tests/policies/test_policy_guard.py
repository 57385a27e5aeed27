"""A policy of somebody else cannot change what others see or end the process, and what it raises is one sentence."""

import pickle
import subprocess
import sys

import pytest

import remoe_sim
from remoe_sim.policy.find import find_policy
from remoe_sim.policy.guard import fast_policy
from remoe_sim.studies.sweep.cells import ChosenPolicy
from remoe_sim.util import plugin_sources
from remoe_sim.util.plugin_sources import PolicyError
from tests.support.data import DEMO
from tests.support.user_policies import FAVOURITE, FEWEST_HITS, shell

COMPILED = """
from remoe_sim.kernels.lists import clear, oldest_outside, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy


class Mine(CompiledSlotPolicy):
    name = "mine"
    state_rows = 3

    @staticmethod
    def setup(state, limit):
        clear(state, 1, state.shape[1] - 2)

    @staticmethod
    def hit(state, entry):
        pass

    @staticmethod
    def admit(state, entry):
        pass

    @staticmethod
    def victim(state, protected):
        entry = oldest_outside(state, 1, state.shape[1] - 2, protected)
        if entry >= 0:
            remove(state, 1, entry)
        return entry

    @staticmethod
    def insert(state, entry):
        push_front(state, 1, state.shape[1] - 2, entry)
"""
OURS = ("lru", "lfu", "belady", "fifo")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes files, ./mine.py or others, in the folder that the test works in, from which modules are imported."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(text, name="mine.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    yield write
    for name in set(sys.modules) - before:
        if name.startswith(("remoe_sim_user_", "mine_")):
            del sys.modules[name]
    plugin_sources._SEEN.clear()


def line_of(text, part):
    return text[: text.index(part)].count("\n") + 1


def keys(statement):
    return FAVOURITE.replace('print("one pass")', statement)


def fast(method):
    return (
        "from remoe_sim.policy import FastPath, Stack\n"
        + keys("pass")
        + "\n    def fast_path(self):\n        return Quick(self)\n"
        + f"\n\nclass Quick(FastPath):\n    {method}"
    )


WRITES = {
    "keys": keys("stream.entries[:] = 0; 'here'"),
    "sizes of the stream": keys("stream.weights[0] = 3; 'here'"),
    "first uses": keys("stream.first[:] = True; 'here'"),
    "preload": keys("pass") + "\n    def preload_keys(self, stream, preload, dtype):\n        preload[:] = 0; 'here'\n",
    "depths": keys("pass") + "\n    def depths(self, stream, rules, most=None):\n        stream.kinds[:] = 0; 'here'\n",
    "counts": keys("pass")
    + "\n    def count(self, streams, rules, tables):\n        streams[0].steps[:] = 0; 'here'\n",
    "replay": keys("pass") + "\n    def replay(self, stream, limit, rules):\n        stream.offsets[1:] = 9; 'here'\n",
    "fast path": fast("def replay(self, stream, limit, rules):\n        stream.offsets[1:] = 9; 'here'\n"),
    "stack": fast("def stack(self, n_entries, rules, in_parts):\n        return Own()\n")
    + "\n\nclass Own(Stack):\n    def depths(self, part):\n        part.stream.kinds[:] = 0; 'here'\n",
    "setup": FEWEST_HITS.replace("self.hits = {}", "sizes[:] = 9; 'here'; self.hits = {}"),
    "victim": FEWEST_HITS.replace("free = [", "protected[:] = 0; 'here'; free = ["),
    "compiled": COMPILED.replace("entry = oldest", "protected[0] = 1; 'here'\n        entry = oldest"),
}


@pytest.mark.parametrize("where", WRITES)
def test_arrays_of_others_cannot_be_written_to(where, mine):
    """The rows of built-in policies in the same call were other ones."""
    path = mine(WRITES[where])
    call = remoe_sim.curve if where == "counts" else remoe_sim.replay
    limits = {} if where == "counts" else {"cache": 6}
    limits |= {"preload": DEMO} if where == "preload" else {}
    with pytest.raises(PolicyError, match=f"failed in .*mine.py, line {line_of(WRITES[where], 'here')}: .*read-?only"):
        call(DEMO, policy=(path, *OURS), phase="prefill", **limits)


def test_reading_changes_nothing(mine):
    """Methods that pass on what they were given, or something made of it."""
    mine(FEWEST_HITS)
    path = mine(
        FEWEST_HITS.replace("fewest-hits", "passes-on")
        + "\n    def replay(self, stream, limit, rules):\n        return super().replay(stream, limit, rules)\n",
        "other.py",
    )
    how = {"cache": 6, "phase": "prefill", "preload": DEMO}
    found = remoe_sim.replay(DEMO, policy=("./mine.py", path), **how)
    assert found["fewest-hits"].hits == found["passes-on"].hits
    text = FAVOURITE.replace('"favourite"', '"halved"').replace('print("one pass")', "pass")
    path = mine(
        "from dataclasses import replace\n"
        + text
        + "\n    def replay(self, stream, limit, rules):\n"
        + "        return super().replay(replace(stream, entries=stream.entries // 2 * 2), limit, rules)\n"
    )
    assert remoe_sim.replay(DEMO, policy=path, **how)["halved"].hits > 0


OUT = {
    "a verb": COMPILED.replace("2, entry)\n", "2, entry)\n        state[2, entry + 10**5] = 7  # here\n", 1),
    "a kernel of ours": COMPILED.replace(
        "        push_front(state, 1, state.shape[1] - 2, entry)",
        "        push_front(state, 1, entry + 10**5, entry)  # here",
    ),
    "a module of ours": COMPILED.replace(
        "        push_front(state, 1, state.shape[1] - 2, entry)",
        "        lists.push_front(state, 9, 3, entry)  # here",
    )
    + "\nfrom remoe_sim.kernels import lists\n",
}


@pytest.mark.parametrize("where", OUT)
def test_out_of_bounds_is_a_sentence(where, mine):
    """It ended the process, by `free(): invalid pointer` or a segmentation fault, or changed other results."""
    mine(OUT[where])
    code, out, err = shell("replay", DEMO, "--policy", "./mine.py,lru", "--cache", 4, "--phase", "prefill")
    assert (code, out) == (2, ""), err
    last = err.splitlines()[-1]
    assert f"mine.py, line {line_of(OUT[where], '# here')}: IndexError: " in last
    assert last.startswith("remoe-sim: policy 'mine' failed in ")
    assert "Traceback" not in err


def test_loops_that_drive_policies_check_bounds_too(mine):
    path = mine(OUT["a kernel of ours"])
    for call in (
        lambda: remoe_sim.prefetch(DEMO, cache=6, policy=path, phase="prefill"),
        lambda: remoe_sim.tiers(
            DEMO, device_cache=6, host_cache=9, device_policy=path, relation="exclusive", phase="prefill"
        ),
    ):
        with pytest.raises(PolicyError, match=r"mine\.py, line \d+: IndexError: "):
            call()


KERNEL = """
import numpy as np
from numba import njit
from remoe_sim.kernels.compile import kernel
from remoe_sim.policy import StackPolicy


@DECORATOR
def fill(keys):
    for i in range(keys.size + 50_000_000):
        keys[i] = i  # here


class Mine(StackPolicy):
    name = "mine"

    def keys(self, stream):
        keys = np.zeros(stream.entries.size, np.int64)
        fill(keys)
        return keys
"""


@pytest.mark.parametrize("decorator", ["kernel", "njit", "njit(nogil=True)"])
def test_kernels_that_keys_call_check_bounds(decorator, mine):
    mine(KERNEL.replace("DECORATOR", decorator))
    code, _, err = shell("replay", DEMO, "--policy", "./mine.py", "--cache", 4, "--phase", "prefill")
    assert code == 2, err
    assert "IndexError: index is out of bounds" in err.splitlines()[-1]


def test_without_checks_the_result_is_the_same(mine):
    path = mine(COMPILED)
    how = {"cache": 6, "phase": "prefill", "policy": (path, "fifo")}
    checked = remoe_sim.replay(DEMO, **how)
    assert checked["mine"].hits == checked["fifo"].hits
    with fast_policy():
        assert find_policy(path).fast
        assert remoe_sim.replay(DEMO, **how)["mine"] == checked["mine"]
    assert not find_policy(path).fast
    code, out, err = shell(
        "replay", DEMO, "--policy", "./mine.py", "--cache", 6, "--phase", "prefill", "--fast-policy", "--json"
    )
    assert (code, f'"hits": {checked["mine"].hits}' in out) == (0, True), err


RAISES = {
    "victim": (FEWEST_HITS.replace("free = [", "1 / 0; free = ["), "1 / 0", "ZeroDivisionError: division by zero"),
    "keys": (keys("self.nothing"), "self.nothing", "AttributeError: 'Favourite' object has no attribute 'nothing'"),
    "a ValueError": (keys("int('x')"), "int('x')", "ValueError: invalid literal for int"),
    "making it": (
        FAVOURITE.replace("self.id, self.power =", "{}[3]; self.id, self.power ="),
        "{}[3]",
        "KeyError: 3",
    ),
    "loading it": (FAVOURITE + "\n{}[3]\n", "{}[3]", "KeyError: 3"),
}


@pytest.mark.parametrize("what", RAISES)
def test_what_a_policy_raises_is_a_sentence(what, mine):
    """It was a traceback through our threads."""
    text, part, said = RAISES[what]
    mine(text)
    arguments = ["replay", DEMO, "--policy", "./mine.py", "--cache", 4, "--phase", "prefill"]
    code, _, err = shell(*arguments)
    sentence = [line for line in err.splitlines() if "compiling" not in line]
    assert (code, len(sentence)) == (2, 1), err
    assert f"mine.py, line {line_of(text, part)}" in sentence[0]
    assert said in sentence[0]
    code, _, err = shell("--traceback", *arguments)
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == sentence[0]


def test_the_line_is_that_of_the_module_that_fails(mine):
    mine("def half(x):\n    return x / nothing\n", "mine_helper.py")
    path = mine("from mine_helper import half\n" + keys("half(3)"))
    with pytest.raises(PolicyError, match=r"mine_helper\.py, line 2: NameError: name 'nothing'") as error:
        remoe_sim.replay(DEMO, policy=path, cache=4)
    assert isinstance(error.value.__cause__, NameError)


# --- what it imports

IMPORTS = {
    "mine_pack/__init__.py": "",
    "mine_pack/deep.py": "POWER = 1.0\n",
    "mine_pack/near.py": "from . import deep\n",
    "mine.py": FAVOURITE.replace(
        "np.abs(stream.entries.astype(float) - self.id) ** self.power",
        "np.abs(stream.entries.astype(float) - near.deep.POWER * 9)",
    ).replace('print("one pass")', "from mine_pack import near"),
}


def test_a_sweep_computes_again_what_an_import_changes(mine, tmp_path):
    """Rows of the old module stayed."""
    for name, text in IMPORTS.items():
        mine(text, name)
    how = {"policy": "./mine.py", "cache": 6, "phase": "prefill", "output": tmp_path / "rows.parquet"}
    hits = remoe_sim.sweep(DEMO, **how)["hits"].tolist()
    assert remoe_sim.sweep(DEMO, dry_run=True, **how)["done"].all()
    mine("POWER = 2.0\n", "mine_pack/deep.py")
    assert not remoe_sim.sweep(DEMO, dry_run=True, **how)["done"].any()
    again = remoe_sim.sweep(DEMO, **how)["hits"].tolist()  # the module in memory is the old one
    assert again != hits
    mine("POWER = 1.0\n", "mine_pack/deep.py")
    assert remoe_sim.sweep(DEMO, **how)["hits"].tolist() == hits


def test_machine_code_follows_what_an_import_changes(mine):
    """The loop that is kept holds a kernel of another file of the user's."""
    mine("from remoe_sim.kernels.compile import kernel\n\n\n@kernel\ndef end(state):\n    return 1\n", "mine_helper.py")
    text = "from mine_helper import end\n" + COMPILED.replace(
        "entry = oldest_outside(state, 1, state.shape[1] - 2, protected)",
        "entry = state[1 + end(state), state.shape[1] - 2]\n        if entry >= 0 and protected[entry]:\n"
        "            entry = oldest_outside(state, 1, state.shape[1] - 2, protected)",
    )
    path, misses = mine(text), []
    for answer in (1, 0, 1):
        helper = f"from remoe_sim.kernels.compile import kernel\n\n\n@kernel\ndef end(state):\n    return {answer}\n"
        mine(helper, "mine_helper.py")
        misses.append(remoe_sim.replay(DEMO, policy=path, cache=8, phase="prefill")["mine"].misses)
    assert misses[0] == misses[2] != misses[1]  # the oldest goes, and the newest


def test_what_cannot_be_followed_is_said(mine):
    text = keys("import importlib; importlib.import_module('mine_helper')")
    path = mine(text)
    mine("", "mine_helper.py")
    frame = remoe_sim.sweep(DEMO, policy=path, cache=6, phase="prefill")
    (said,) = [note for note in frame.attrs["notes"] if "favourite" in note]
    assert f"cannot be followed (mine.py, line {line_of(text, 'importlib')})" in said
    assert not remoe_sim.sweep(DEMO, policy="lru", cache=6, phase="prefill").attrs["notes"]


def test_another_process_must_import_the_same(mine, tmp_path):
    for name, text in IMPORTS.items():
        mine(text, name)
    sent = pickle.dumps(ChosenPolicy.of("./mine.py", find_policy("./mine.py")))
    load = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).label)"
    command = [sys.executable, "-c", load, sent.hex()]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "favourite\n", done.stderr
    mine("POWER = 2.0\n", "mine_pack/deep.py")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "ValueError: policy './mine.py' imports other modules here; install the same" in done.stderr


def test_built_in_policies_are_known_by_their_file_alone(mine):
    """Their rows in files that exist stay what they are."""
    import hashlib
    import inspect
    from pathlib import Path

    policy = find_policy("lru")
    source = Path(inspect.getsourcefile(type(policy))).read_bytes()
    assert ChosenPolicy.of("lru", policy).mark == hashlib.sha256(source).hexdigest()[:16]
