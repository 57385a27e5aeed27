"""A cache in the loop: what it counts, a replay of its trace counts; and what routers may do because of it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import remoe_sim  # noqa: E402
from remoe_sim.capture import record  # noqa: E402
from remoe_sim.trace.trace import DECODE  # noqa: E402
from tests.support.tiny_models import tiny  # noqa: E402

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
ROUTES = {
    "cache-prior": {"bias": 0.4},
    "max-rank": {"max_rank": 5},
    "cumulative": {"threshold": 0.8},
    "drop": {"threshold": 1.0},
    "substitute": {"threshold": 0.4},
}
POLICIES = ["lru", "lfu", "lfu-aged", "lru-k", "fifo", "clock", "sieve", "arc", "class-lru", "w-tinylfu", "s3fifo"]


@pytest.fixture(scope="module")
def models():
    made = {family: tiny(family) for family in ("qwen2_moe", "mixtral", "gpt_oss", "granitemoe")}
    return made | {"deepseek_v2": tiny("deepseek_v2", topk_method="greedy")}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def read(model, rows=4, columns=20, prompts=(0, 3, 20, 1), **route):
    """Teacher forcing over random texts of unequal length: the trace, and the logits."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 97, (rows, columns), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    with record(model, teacher_force=True, **route) as recorder:
        recorder.next_prompts(prompts)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return recorder.trace(), logits


def generated(model, **route):
    """Generation of a batch, whose rows end at different times."""
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(3, 97, (3, 5), generator=generator)
    with record(model, end_ids=range(40, 50), **route) as recorder:
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0)
        return recorder.trace()


def assert_counts(trace):
    """The counts of the loop are those of a replay."""
    said = trace.origin["route"]
    result = remoe_sim.replay(trace, cache=said["experts_per_layer"], policy=said["policy"])[said["policy"]]
    for phase in ("prefill", "decode"):
        found = getattr(result, phase)
        assert (said[phase]["lookups"], said[phase]["hits"]) == (found.lookups, found.hits), phase


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("route", ROUTES)
def test_the_loop_counts_what_a_replay_of_its_trace_counts(route, policy, models):
    for cache in (0, 1, 4):
        for make in (read, generated):
            made = make(models["qwen2_moe"], route=route, cache=cache, policy=policy, **ROUTES[route])
            assert_counts(made[0] if make is read else made)


@pytest.mark.parametrize("family", ["deepseek_v2", "mixtral", "gpt_oss", "granitemoe"])
@pytest.mark.parametrize("route", ROUTES)
def test_every_family_follows_the_cache(route, family, models):
    trace, logits = read(models[family], route=route, cache=3, **ROUTES[route])
    assert_counts(trace)
    assert trace.origin["route"]["changed_slots"] > 0
    assert not torch.equal(logits, read(models[family])[1])


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v2"])
@pytest.mark.parametrize("route", ROUTES)
def test_with_a_cache_of_all_experts_nothing_changes(route, family, models):
    plain, logits = read(models[family])
    trace, same = read(models[family], route=route, cache=8, **ROUTES[route])
    assert torch.equal(logits, same)
    assert trace.origin["route"]["changed_slots"] == 0
    for index in range(plain.moe_layers):
        assert (trace.decisions(index).experts == plain.decisions(index).experts).all()
    assert_counts(trace)


@pytest.mark.parametrize(("route", "setting"), [("cache-prior", {"bias": 0}), ("drop", {"threshold": 0})])
def test_without_strength_nothing_changes(route, setting, models):
    assert torch.equal(read(models["mixtral"])[1], read(models["mixtral"], route=route, cache=2, **setting)[1])


@pytest.mark.parametrize("route", ["max-rank", "cumulative", "drop", "substitute"])
def test_the_first_layer_is_routed_as_reroute_does_it(route, models):
    """Before the first MoE layer nothing differs, so open and closed loop are one there."""
    settings = {"cache": 3, **ROUTES[route]}
    with record(models["mixtral"], teacher_force=True, probs=True) as recorder:
        generator = torch.Generator().manual_seed(5)
        ids = torch.randint(3, 97, (1, 40), generator=generator)
        models["mixtral"](input_ids=ids, use_cache=False)
    opened = remoe_sim.reroute(recorder.trace(), method=route, **settings).rerouted
    with record(models["mixtral"], teacher_force=True, route=route, **settings) as recorder:
        models["mixtral"](input_ids=ids, use_cache=False)
    one, other = (trace.decisions(0) for trace in (opened, recorder.trace()))
    assert [set(row) for row in _rows(one)] == [set(row) for row in _rows(other)]


def _rows(decisions):
    valid = np.ones(decisions.experts.shape, bool) if decisions.valid is None else decisions.valid
    return [row[there].tolist() for row, there in zip(decisions.experts, valid, strict=True)]


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
def test_gate_weights_stay_on_the_scale_of_the_router(family, models):
    """Mixtral divides by the sum, qwen2_moe does not: weights are the probabilities of what was taken."""
    trace, _ = read(models[family], route="max-rank", cache=3, max_rank=6)
    weights = trace.source.weights(0)[trace.phase == DECODE]
    sums = weights.sum(axis=1)
    assert trace.origin["route"]["changed_slots"] > 0
    assert np.allclose(sums, 1) == (family == "mixtral")
    assert (sums <= 1 + 1e-6).all()
    assert (np.diff(weights, axis=1) <= 0).all()


def test_a_dropped_expert_weighs_nothing_and_is_a_null_slot(models):
    trace, _ = read(models["mixtral"], route="drop", cache=2, threshold=2.0)
    decisions = trace.decisions(0)
    assert decisions.valid is not None
    assert decisions.valid.any(axis=1).all()
    assert (trace.source.weights(0)[~decisions.valid] == 0).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"route": "cache-prior", "bias": 0.2}, "route needs the size of the cache"),
        ({"route": "cache-prior", "cache": 4}, "method cache-prior needs bias"),
        ({"route": "nearest", "cache": 4}, "unknown method 'nearest'"),
        ({"cache": 4}, "cache is for a cache in the loop; pass route="),
        ({"route": "drop", "cache": 4, "threshold": 1, "policy": "belady"}, "policy 'belady' looks ahead"),
        ({"route": "drop", "cache": 4, "threshold": 1, "policy": "static"}, "policy 'static' has a replay of its own"),
        ({"route": "drop", "cache": 4, "threshold": 1, "keep": 0}, "keep 0 is not possible"),
    ],
)
def test_settings_that_are_not_possible_are_refused(settings, sentence, models):
    with pytest.raises(ValueError, match=sentence), record(models["mixtral"], **settings):
        pass


def test_biased_routers_say_that_their_choice_cannot_be_told():
    with pytest.raises(ValueError, match="chose experts that are not its most probable ones"):
        read(tiny("deepseek_v3"), route="substitute", cache=3, threshold=0.1)


def test_the_loss_under_teacher_forcing_is_that_of_the_logits(models):
    trace, logits = read(models["qwen2_moe"], route="drop", cache=2, threshold=1.5)
    said = trace.origin["loss"]
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 97, (4, 20), generator=generator)
    logp = logits.log_softmax(-1)
    for row, (nats, tokens) in enumerate(said["requests"]):
        last = 15 if row == 1 else 20
        assert tokens == last - 1
        expected = -sum(logp[row, at, ids[row, at + 1]].item() for at in range(last - 1))
        assert nats == pytest.approx(expected, rel=1e-5)
    assert said["tokens"] == 71
    assert said["nats_per_token"] == pytest.approx(sum(nats for nats, _ in said["requests"]) / 71)
    assert "loss" not in generated(models["qwen2_moe"]).origin


def test_what_routers_wanted_is_kept_in_the_file(models, tmp_path):
    """Where nothing was changed, wanted is what was computed; elsewhere it is what the router alone had chosen."""
    trace, _ = read(models["qwen2_moe"], route="substitute", cache=3, threshold=0.2, ahead=1)
    plain, _ = read(models["qwen2_moe"])
    remoe_sim.write_trace(trace, tmp_path / "t.parquet")
    kept = remoe_sim.read_trace(tmp_path / "t.parquet")
    assert (kept.wanted(0).experts == plain.decisions(0).experts).all()
    prefill = kept.phase != DECODE
    assert (kept.wanted(1).experts[prefill] == kept.decisions(1).experts[prefill]).all()
    assert (kept.wanted(1).experts != kept.decisions(1).experts).any()
    assert kept.most_ahead == 1
    frame = kept.select(phase="decode").to_frame()
    said = trace.origin["route"]["changed_slots"]
    missing = frame.groupby(["request", "position", "layer"]).apply(lambda one: len(set(one.wanted) - set(one.expert)))
    assert missing.sum() == said
    assert plain.wanted(0) is None
