"""The exact division against trying all of them and against the textbook's table, and the greedy one."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from remoe_sim.studies.split import Knapsack
from tests.support.strategies import examples


@st.composite
def knapsacks(draw, layers=4, experts=5):
    """Curves that fall in steps of any size, and now and then rise."""
    step = st.sampled_from((0, 0, 1, 1, 2, 3, 7, -1))
    steps = draw(st.lists(st.lists(step, min_size=1, max_size=experts), min_size=1, max_size=layers))
    costs = [np.append(50, 50 - np.cumsum(of_layer)) for of_layer in steps]
    weights = draw(st.lists(st.integers(1, 6), min_size=len(costs), max_size=len(costs)))
    if draw(st.booleans()):
        weights = weights[:1] * len(costs)
    return Knapsack(costs, weights, draw(st.integers(0, 40)))


def equal(problem):
    share = problem.limit // len(problem.costs)
    return [min(share // weight, costs.size - 1) for costs, weight in zip(problem.costs, problem.weights, strict=True)]


@examples(400)
@given(knapsacks())
def test_the_best_division_is_the_best_of_all(problem):
    everything = itertools.product(*(range(costs.size) for costs in problem.costs))
    least = min(problem.cost(experts) for experts in everything if problem.held(experts) <= problem.limit)
    greedy = problem.greedy()
    for best in (problem.best(equal(problem)), problem.best(greedy, equal(problem))):
        assert problem.held(best) <= problem.limit
        assert problem.cost(best) == least
    assert problem.held(greedy) <= problem.limit
    assert problem.cost(greedy) >= least


def textbook(problem):
    """The least cost by the table over every unit of the limit."""
    unit = int(np.gcd.reduce(problem.weights))
    table = np.zeros(problem.limit // unit + 1, np.int64)
    for costs, weight in zip(problem.costs, problem.weights, strict=True):
        after = np.full_like(table, 2**60)
        for experts, cost in enumerate(costs):
            taken = experts * weight // unit
            if taken < table.size:
                after[taken:] = np.minimum(after[taken:], table[: table.size - taken] + cost)
        table = after
    return int(table.min())


@pytest.mark.parametrize("weights", [(4,), (4, 5), (3, 4, 7, 11, 13, 17)])
@pytest.mark.parametrize("shape", ["convex", "cliffs", "rough"])
def test_larger_problems_against_the_table(shape, weights):
    random = np.random.default_rng(7)
    costs = []
    for _ in range(12):
        drops = random.integers(0, 400, 24)
        if shape == "convex":
            drops = np.sort(drops)[::-1]
        elif shape == "cliffs":
            drops = np.where(random.random(24) < 0.1, 2000, 0)
        costs.append(9000 - np.append(0, np.cumsum(drops)))
    every = [weights[layer % len(weights)] for layer in range(12)]
    for limit in (0, 60, 200, 450, 5000):
        problem = Knapsack(costs, every, limit)
        assert problem.cost(problem.best(problem.greedy(), equal(problem))) == textbook(problem)


def test_costs_as_large_as_bytes():
    """Bytes of misses of a large model; a division that is better by one byte is found."""
    problem = Knapsack([np.array([10**16, 10**16 - 5]), np.array([10**16, 10**16 - 6])], [2, 2], 2)
    assert problem.best((1, 0)) == (0, 1)
