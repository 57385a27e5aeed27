"""Layers side by side: order, bounds, exceptions."""

import threading
import time

import pytest

from remoe_sim.util import threads


@pytest.mark.parametrize("processors", [None, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order(count, processors, monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: processors)

    def work(index):
        time.sleep(0.002 * ((index * 5) % 3))
        return index * index

    assert list(threads.map_layers(work, count)) == [index * index for index in range(count)]


@pytest.mark.parametrize("processors", [1, 2])
def test_calls_for_several_layers_count_for_as_many(processors, monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: processors)
    counted = []
    monkeypatch.setattr(threads, "done", lambda amount, unit: counted.append((amount, unit)))
    assert list(threads.map_layers(lambda index: index, [2, 2, 1])) == [0, 1, 2]
    assert counted == [(2, "layers"), (2, "layers"), (1, "layers")]


def test_a_thread_goes_on_while_the_call_before_it_is_not_done(monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    third = threading.Event()

    def work(index):
        if index == 0:
            assert third.wait(20)
        if index == 2:
            third.set()
        return index

    assert list(threads.map_layers(work, 4)) == [0, 1, 2, 3]


def test_one_more_in_flight_than_workers(monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    lock, begun, taken, most = threading.Lock(), [], [], 0

    def work(index):
        nonlocal most
        with lock:
            begun.append(index)
            most = max(most, len(begun) - len(taken))

    for _ in threads.map_layers(work, 20):
        time.sleep(0.002)
        with lock:
            taken.append(None)
    assert len(begun) == 20
    assert most <= 4  # three running or waiting, and the one that the caller holds


@pytest.mark.parametrize("processors", [1, 2])
def test_an_exception_comes_in_its_turn_and_ends_the_work(processors, monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: processors)
    begun = []

    def work(index):
        begun.append(index)
        if index == 2:
            raise ValueError("layer 2")
        return index

    results = threads.map_layers(work, 100)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="layer 2"):
        next(results)
    assert len(begun) <= 5


def test_closing_early_stops_the_work(monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    begun = []
    results = threads.map_layers(begun.append, 100)
    next(results)
    results.close()
    assert len(begun) <= 3
