"""What a worker does with the units that it is sent, without a cluster around it."""

import pickle
import sys
import threading

import pytest

import remoe_sim
from remoe_sim.studies.sweep.axes import axes_of
from remoe_sim.studies.sweep.cells import ChosenPolicy, Subject, passes_of
from remoe_sim.studies.sweep.cluster import _alone
from remoe_sim.studies.sweep.units import Cut, rows_of, units_of
from remoe_sim.studies.sweep.worker import fingerprint, work
from remoe_sim.util.threads import map_layers, most_threads, one_thread
from tests.oracle.naive import DECODE, Row
from tests.support.data import DEMO
from tests.support.strategies import Shape, trace_of
from tests.support.sweeps import by_key, passes, results
from tests.support.timed import with_dense
from tests.support.user_policies import FEWEST_HITS

SAMPLE = DEMO


def sent(unit):
    return pickle.dumps(_alone(unit))


def test_pickled_units_find_the_same(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(FEWEST_HITS)
    rows = [Row(i % 2, i // 2, i, DECODE, [[i % 4, (i + 1) % 4], [i * i % 4]]) for i in range(40)]
    path = str(tmp_path / "t.parquet")
    remoe_sim.write_trace(with_dense(trace_of(rows, Shape((4, 4), (2, 1), (10, 20)))), path)
    given = passes(path, ["lru", "lfu-aged:half_life=64", str(mine)], "1:3", device="rtx-4090")
    given += passes(path, "belady,fifo", "2,3", "layer,global", batch=["trace", 2])
    units = list(units_of(given, Cut(1, 1, 1)))
    payloads = [sent(unit) for unit in units]
    mine.unlink()  # the worker may be elsewhere
    found = [work(payload, fingerprint()) for payload in payloads]
    rows = by_key(rows_of((unit, one) for unit, several in zip(units, found, strict=True) for one in several))
    mine.write_text(FEWEST_HITS)
    assert rows == by_key(rows_of(results(units_of(given, Cut()))))


def test_units_are_small():
    axes = axes_of("lru", "layer", None, None, None, None, None, None, (None,) * 5, {}, True)
    trace = remoe_sim.read_trace(SAMPLE)
    given = list(passes_of(axes, [Subject.of(SAMPLE, 0, None)], None))
    assert max(len(sent(unit)) for unit in units_of(given, Cut(1))) < 5000
    given = list(passes_of(axes, [Subject.of(SAMPLE, 0, None)], trace))
    assert max(len(sent(unit)) for unit in units_of(given, Cut(1))) < 5000 + 8 * sum(trace.model.experts)


def test_what_a_worker_refuses(tmp_path):
    path = tmp_path / "t.parquet"
    remoe_sim.write_trace(remoe_sim.read_trace(SAMPLE).with_sizes(7), path)
    payload = sent(next(units_of(passes(str(path), "lru", 8), Cut())))
    assert (
        work(payload, "remoe-sim 9.9.9")
        == f"has {fingerprint()}, and this is remoe-sim 9.9.9; install the same on both"
    )
    path.unlink()
    assert work(payload, fingerprint()).startswith(f"says: {path}: there is no such file")
    remoe_sim.write_trace(remoe_sim.read_trace(SAMPLE).with_sizes(8), path)
    assert "this is another trace than the one that the sweep was planned with" in work(payload, fingerprint())


def test_a_policy_is_found_where_it_is_unpickled(tmp_path, monkeypatch):
    from remoe_sim.policy.find import find_policy

    chosen = ChosenPolicy.of("random:seed=7", find_policy("random:seed=7"))
    again = pickle.loads(pickle.dumps(chosen))
    assert (again.label, again.mark, again.policy.seed) == ("random:seed=7", chosen.mark, 7)
    other = ChosenPolicy(chosen.text, chosen.policy, "another", None)
    with pytest.raises(ValueError, match=r"policy 'random:seed=7' is another one here; install the same version"):
        pickle.loads(pickle.dumps(other))
    mine = tmp_path / "mine.py"
    mine.write_text(FEWEST_HITS)
    own = ChosenPolicy.of(f"{mine}", find_policy(str(mine)))
    mine.unlink()
    assert pickle.loads(pickle.dumps(own)).label == "fewest-hits"
    broken = ChosenPolicy(f"{mine}", own.policy, "broken", b"import no_such_thing")
    with pytest.raises(ValueError, match=rf"policy '{mine}' cannot be loaded: ModuleNotFoundError"):
        pickle.loads(pickle.dumps(broken))


def test_a_unit_keeps_to_its_thread():
    with one_thread():
        assert most_threads() == 1
        names = set(map_layers(lambda _: threading.current_thread().name, 5))
    assert names == {threading.current_thread().name}
    assert set(map_layers(lambda _: most_threads(), 2)) == {most_threads()}


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"package 'distributed', .* pip install 'remoe-sim\[distributed\]'"):
        remoe_sim.sweep(SAMPLE, "lru", 8, client="tcp://127.0.0.1:8786")


def test_a_path_is_of_this_machine_and_a_url_is_not(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    remoe_sim.write_trace(remoe_sim.read_trace(SAMPLE), path)
    monkeypatch.chdir(tmp_path)
    for given, there in (("t.parquet", str(path)), (f"file://{path}", f"file://{path}"), (SAMPLE, SAMPLE)):
        unit = next(units_of(passes(given, "lru", 8), Cut()))
        assert _alone(unit).subject.given == there
        assert isinstance(work(sent(unit), fingerprint()), list)
