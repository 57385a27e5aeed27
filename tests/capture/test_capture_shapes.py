"""Routers that are found by the shape of modules, and outputs that are read by the shapes of their tensors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remoe_sim.capture import record  # noqa: E402
from remoe_sim.capture.routers import (  # noqa: E402
    Router,
    read_choice,
    tables_of,
)

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


class Block(torch.nn.Module):
    """A layer of somebody's own: a linear router beside a list of experts."""

    def __init__(self):
        super().__init__()
        self.choose = torch.nn.Linear(8, 4, bias=False)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))
        self.top_k = 2

    def forward(self, hidden):
        self.choose(hidden)
        return hidden


class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(Block() for _ in range(2))
        self.config = type("Config", (), {"num_hidden_layers": 2, "model_type": "own"})()

    def forward(self, input_ids):
        hidden = torch.nn.functional.one_hot(input_ids, 8).float()
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def test_a_model_of_ones_own_is_captured_by_the_shape_of_its_modules():
    model, ids = Own(), torch.tensor([[1, 2, 3]])
    with record(model, probs=True) as recorder:
        model(ids)
    trace = recorder.trace()
    for index, layer in enumerate(model.layers):
        logits = layer.choose(torch.nn.functional.one_hot(ids[0], 8).float())
        np.testing.assert_array_equal(trace.decisions(index).experts, logits.topk(2).indices)
        assert trace.source.weights(index) is None
    assert "largest router logits" in trace.notes
    assert trace.model.expert_bytes == (8 * 8 * 4,) * 2
    assert trace.model.dense_bytes == (4 * 8 * 4 + 8 * 4 * 2,) * 2


def router(experts=4, top_k=2):
    return Router(0, "layers.0.gate", None, experts, top_k)


def test_outputs_are_read_whatever_their_order():
    logits = torch.tensor([[[0.1, 3.0, 2.0, 0.0], [5.0, 0.0, 0.2, 4.0]]])
    experts = logits.topk(2).indices
    weights = torch.tensor([[[0.7, 0.3], [0.6, 0.4]]])
    scores = torch.zeros_like(logits).scatter_(-1, experts, weights)
    for output in ((logits, weights, experts), (experts, weights, logits), (experts, weights), (scores, experts)):
        choice = read_choice(router(), tables_of(output))
        assert choice.experts.tolist() == [[1, 2], [0, 3]]
        torch.testing.assert_close(choice.weights, weights[0])
        assert (choice.logits is None) == (len(output) == 2)
        assert not choice.guessed
    both = read_choice(router(), tables_of((scores, logits)))
    assert both.experts.tolist() == [[1, 2], [0, 3]]
    torch.testing.assert_close(both.weights, weights[0])
    alone = read_choice(router(), tables_of(logits))
    assert (alone.experts.tolist(), alone.weights, alone.guessed) == ([[1, 2], [0, 3]], None, True)


def test_where_all_experts_are_chosen_the_order_tells_logits_from_weights():
    logits, weights, experts = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.7, 0.3]]), torch.tensor([[0, 1]])
    choice = read_choice(router(2, 2), tables_of((logits, weights, experts)))
    assert choice.logits is not None
    torch.testing.assert_close(choice.weights, weights)
    torch.testing.assert_close(choice.logits, logits)


def test_an_output_that_tells_nothing_is_refused():
    for output, top_k in ((torch.zeros((3, 7)), 2), (torch.zeros((3, 4)), None), ((torch.zeros(5),), 2)):
        with pytest.raises(ValueError, match=r"output of 'layers\.0\.gate' does not tell"):
            read_choice(router(top_k=top_k), tables_of(output))


class TopkRouter(torch.nn.Module):
    """A router that returns given gate weights with the experts in no order."""

    def __init__(self, weights):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 8))
        self.top_k, self.num_experts, self.given = 2, 4, torch.tensor(weights)

    def forward(self, hidden):
        rows = hidden.reshape(-1, hidden.shape[-1]).shape[0]
        return self.given.expand(rows, 2), torch.tensor([[2, 1]]).expand(rows, 2)


def captured_with(weights):
    model = Own()
    for layer in model.layers:
        layer.choose = TopkRouter(weights)
    with record(model, routers={at: layer.choose for at, layer in enumerate(model.layers)}) as recorder:
        model(torch.tensor([[1, 2, 3]]))
    return recorder.trace()


def test_a_router_that_does_not_sort_its_choice():
    trace = captured_with([0.25, 0.75])
    assert trace.decisions(0).experts.tolist() == [[1, 2]] * 3
    assert trace.source.weights(0).tolist() == [[0.75, 0.25]] * 3


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_model_that_computes_no_numbers_is_refused(number):
    with pytest.raises(ValueError, match=r"gate weights of the router .* recorded token 0, .*another precision"):
        captured_with([0.25, number])


def test_negative_numbers_order_the_experts_but_are_left_out():
    trace = captured_with([-0.75, -0.25])
    assert trace.decisions(0).experts.tolist() == [[1, 2]] * 3
    assert trace.source.weights(0) is None
    assert "gate weights left out, because those of some layers are negative" in trace.notes
