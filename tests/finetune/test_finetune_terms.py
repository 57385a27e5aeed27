"""Every term of the fine-tuning loss: its value against slow loops, its gradient against differences."""

import math

import pytest

torch = pytest.importorskip("torch")

from remoe_sim.finetune import terms  # noqa: E402
from remoe_sim.finetune.recipe import takes, term_functions  # noqa: E402
from tests.oracle import naive_terms  # noqa: E402

pytestmark = pytest.mark.heavy("torch")
MASKS = {
    "whole": [[1] * 7, [1] * 7],
    "padded": [[1, 1, 1, 1, 0, 0, 0], [1] * 7],
    "left": [[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]],
    "nothing to compare": [[1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]],
}
OPTIONS = {"lag": {"lags": [1, 2, 5]}, "working_set": {"window": 3}}


def case(mask, top_k=2, experts=5):
    """What a pass offers to terms, in float64; logp and logits need a gradient."""
    generator = torch.Generator().manual_seed(top_k)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    real = torch.tensor(MASKS[mask], dtype=torch.bool)
    rows, tokens = real.shape
    scores = drawn(rows, tokens, experts)
    return {
        "logits": drawn(rows, tokens, 11).requires_grad_(True),
        "ids": torch.randint(11, (rows, tokens), generator=generator),
        "real": real,
        "logp": (scores * 2).log_softmax(-1).requires_grad_(True),
        "reference": drawn(rows, tokens, experts).log_softmax(-1),
        "experts": scores.topk(top_k).indices,
    }


@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", term_functions())
def test_a_term_is_what_loops_make_of_it_and_so_is_its_gradient(name, mask, top_k):
    given, options = case(mask, top_k), OPTIONS.get(name, {})
    values = {one: given[one] for one in takes(name)[0]}
    found = term_functions()[name](**values, **options)
    wanted = getattr(naive_terms, name)(**{one: value.tolist() for one, value in values.items()}, **options)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    moving = next(one for one in values if values[one].requires_grad)
    assert torch.autograd.gradcheck(
        lambda moved: term_functions()[name](**{**values, moving: moved}, **options), values[moving]
    )


@pytest.mark.parametrize("name", term_functions())
def test_rows_do_not_touch_and_padding_does_not_count(name):
    """Other rows beside a row, and other padding behind it, change the mean over rows only by their own part."""
    given, options = case("padded"), OPTIONS.get(name, {})
    changed = {one: given[one].detach().clone() for one in takes(name)[0]}
    for one, value in changed.items():
        if one != "real":
            value[0, 4:] = value[0, :3].flip(0)
    before, after = (
        term_functions()[name](**{one: table[one] for one in takes(name)[0]}, **options) for table in (given, changed)
    )
    assert float(before.detach()) == float(after.detach())
    (gradient,) = torch.autograd.grad(before, given["logits" if name == "language_model" else "logp"])
    assert not gradient[0, 4:].any()


def test_values_that_are_known():
    uniform = torch.full((1, 6, 4), -math.log(4), dtype=torch.float64)
    experts = torch.tensor([[[0, 1]] * 6])
    real = torch.ones((1, 6), dtype=torch.bool)
    assert float(terms.reuse(uniform, experts, real)) == pytest.approx(math.log(4), abs=1e-6)
    assert float(terms.working_set(uniform, real, window=2)) == pytest.approx(math.log(4), abs=1e-6)
    assert float(terms.load_balance(uniform, experts, real)) == pytest.approx(1.0)
    for value in (terms.smooth(uniform, real), terms.lag(uniform, real), terms.trust(uniform, uniform, real)):
        assert float(value) == 0.0
    sure = torch.log(torch.tensor([[[1 - 3e-9, 1e-9, 1e-9, 1e-9]] * 6], dtype=torch.float64))
    assert float(terms.reuse(sure, torch.zeros((1, 6, 1), dtype=torch.long), real)) == pytest.approx(0.0, abs=1e-6)
    assert float(terms.load_balance(sure, torch.zeros((1, 6, 1), dtype=torch.long), real)) == pytest.approx(4.0)
