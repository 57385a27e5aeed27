"""Capture from real Transformers models, tiny and random: decisions against the logits that a model returns itself."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from remoe_sim.capture import record  # noqa: E402
from remoe_sim.capture.routers import find_routers  # noqa: E402
from remoe_sim.models.huggingface import shape_of_values  # noqa: E402
from remoe_sim.models.model import size_shape  # noqa: E402
from tests.support.tiny_models import FAMILIES, INSTALLED, as_table, chosen, correction, tiny  # noqa: E402

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
PREFILL, DECODE = 0, 1


@pytest.fixture(scope="module")
def models():
    made = {}
    return lambda family="mixtral": made.setdefault(family, None) or made.update({family: tiny(family)}) or made[family]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def texts(rows=3, columns=7, side=None):
    """Token ids, and a mask that leaves some of the first and the last row out."""
    generator = torch.Generator().manual_seed(rows * columns)
    ids = torch.randint(3, 97, (rows, columns), generator=generator)
    mask = torch.ones_like(ids)
    if side == "left":
        mask[0, :3] = mask[-1, :1] = 0
    elif side == "right":
        mask[0, 4:] = mask[-1, 6:] = 0
    return ids, mask


def logits_of(output):
    """The router logits of a pass as [MoE layer, token, expert]."""
    return np.stack([one.float().numpy() for one in output.router_logits])


def assert_decisions(trace, logits, family, model):
    """Decisions are what the family's rule makes of these logits [MoE layer, token, expert], largest weight first."""
    assert logits.shape[:2] == (trace.moe_layers, trace.tokens)
    for index, (layer, decisions) in enumerate(trace.layers()):
        bias, top_k = correction(model, layer), trace.model.top_k[index]
        for row in range(trace.tokens):
            wanted = chosen(family, logits[index, row].tolist(), top_k, bias)
            assert set(decisions.experts[row].tolist()) == wanted, (family, layer, row)
        assert (np.diff(trace.source.weights(index), axis=1) <= 0).all()


def by_hand(model, ids, mask, tokens):
    """Greedy generation with a cache: the router logits of all passes, as the model without its head returns them
    (with the head it makes a loss of them, which fails where the mask covers the cache)."""
    passes, cache = [], None
    for _ in range(tokens):
        output = model.model(ids, attention_mask=mask, past_key_values=cache, use_cache=True, output_router_logits=True)
        passes.append(logits_of(output))
        cache, ids = output.past_key_values, model.lm_head(output.last_hidden_state[:, -1:]).argmax(-1)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return passes


def test_all_families_are_there():
    assert set(INSTALLED) == set(FAMILIES)


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("family", INSTALLED)
def test_a_pass_has_the_top_k_of_the_models_own_logits(family, side, models):
    model = models(family)
    ids, mask = texts(side=side)
    with record(model, probs=True) as recorder:
        output = model(ids, attention_mask=mask, output_router_logits=True)
    trace, there = recorder.trace(), mask.reshape(-1).bool().numpy()
    logits = logits_of(output)[:, there]
    assert_decisions(trace, logits, family, model)
    assert trace.token_id.tolist() == ids.reshape(-1)[there].tolist()
    assert trace.request.tolist() == np.nonzero(mask.numpy())[0].tolist()
    assert trace.position.tolist() == [at for row in mask for at in range(int(row.sum()))]
    assert set(trace.phase) == {PREFILL}
    assert set(trace.step) == {0}
    sigmoid = family in ("deepseek_v3", "glm4_moe", "llama4_text")
    scores = torch.from_numpy(logits)
    scores = scores.sigmoid() if sigmoid else scores.softmax(-1)
    scores = (scores / scores.sum(-1, keepdim=True)).numpy()
    for index in range(trace.moe_layers):
        np.testing.assert_allclose(trace.source.probs(index), scores[index], atol=1e-3)


@pytest.mark.parametrize("family", INSTALLED)
def test_generation_is_prefill_and_then_decode_with_the_models_own_choices(family, models):
    model = models(family)
    ids, mask = texts(side="left")
    with record(model.model, end_ids=()) as recorder:
        passes = by_hand(model, ids, mask, 4)
    trace, there = recorder.trace(), mask.reshape(-1).bool().numpy()
    assert_decisions(trace, np.concatenate([passes[0][:, there], *passes[1:]], axis=1), family, model)
    lengths = mask.sum(1).tolist()
    assert trace.step.tolist() == [0] * sum(lengths) + [1] * 3 + [2] * 3 + [3] * 3
    assert trace.phase.tolist() == [PREFILL] * sum(lengths) + [DECODE] * 9
    assert trace.request[-9:].tolist() == [0, 1, 2] * 3
    assert trace.position[-9:].tolist() == [length + more for more in range(3) for length in lengths]
    with record(model, end_ids=()) as generated:
        model.generate(ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=None)
    np.testing.assert_array_equal(as_table(generated.trace()), as_table(trace))


@pytest.mark.parametrize("family", INSTALLED)
def test_teacher_forcing_is_decode_token_by_token(family, models):
    model = models(family)
    ids, mask = texts(side="right")
    with record(model, teacher_force=True) as recorder:
        recorder.next_prompts([2, 0, 3])
        output = model(ids, attention_mask=mask, output_router_logits=True)
        model(ids[:1], attention_mask=mask[:1])
    trace, there = recorder.trace(), mask.reshape(-1).bool().numpy()
    logits = logits_of(output)[:, there]
    assert_decisions(trace, np.concatenate([logits, logits[:, :4]], axis=1), family, model)
    assert trace.step.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 11, 12, 13, 14, 15, 16, 17]
    assert trace.phase.tolist() == [0, 0, 1, 1, *[1] * 7, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert trace.request.tolist() == [0] * 4 + [1] * 7 + [2] * 6 + [3] * 4
    assert "teacher forcing" in trace.notes


@pytest.mark.parametrize("family", [family for family in INSTALLED if family != "jamba"])
def test_sizes_are_what_the_configuration_says(family):
    changed = {"attention_bias": True, "lm_head_bias": True} if family == "phimoe" else {}
    model = tiny(family, **changed)
    with record(model) as recorder:
        model(texts()[0])
    found = recorder.trace().model
    sized = size_shape("tiny", shape_of_values(model.config.to_dict(), "config", "tiny"), "fp32")
    assert found.expert_bytes == sized.expert_bytes
    assert found.dense_bytes == sized.dense_bytes
    assert (found.layers, found.quant) == (sized.layers, "fp32")
    assert recorder.trace().layer_numbers == sized.moe_layers


def test_sizes_follow_the_type_of_the_weights(models):
    model = tiny("mixtral").to(torch.bfloat16)
    with record(model) as recorder:
        model(texts()[0])
    half, whole = recorder.trace().model, 3 * 32 * 48 * 2
    assert (half.quant, half.expert_bytes) == ("bf16", (whole,) * 3)


def test_what_is_computed_for_ended_requests_is_left_out(models):
    model = models()
    ids, mask = texts(rows=2)
    free = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None)[:, 7:]
    end = next(token for token in free[0, 1:4].tolist() if token not in free[1].tolist())
    place = free[0].tolist().index(end)
    with record(model, end_ids=[end, 0]) as recorder:
        model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=end, pad_token_id=0)
    trace = recorder.trace()
    decoded = trace.token_id[(trace.request == 0) & (trace.phase == DECODE)]
    assert decoded.tolist() == free[0, :place].tolist()
    assert (trace.request == 1).sum() == 7 + 7
    assert f"{7 - place} tokens left out" in trace.notes


def test_calls_of_generate_are_requests_of_their_own_and_turns_are_not(models):
    model = models()
    ids, _ = texts(rows=1, columns=5)
    with record(model) as recorder:
        for _ in range(2):
            model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    trace = recorder.trace()
    assert trace.request.tolist() == [0] * 7 + [1] * 7
    assert trace.step.tolist() == [0] * 5 + [1, 2] + [3] * 5 + [4, 5]
    with record(model) as recorder:
        first = model(ids, use_cache=True)
        other = model(ids[:, :2], use_cache=True)
        model(ids[:, :3], past_key_values=first.past_key_values)
        model(ids[:, :1], past_key_values=other.past_key_values)
    trace = recorder.trace()
    assert trace.request.tolist() == [0] * 5 + [1] * 2 + [0] * 3 + [1]
    assert trace.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 2]
    assert trace.phase.tolist() == [PREFILL] * 10 + [DECODE]


def test_a_recording_may_begin_in_the_middle_and_go_on_with_embeddings(models):
    model = models()
    ids, mask = texts(rows=2, side="left")
    cache = model(ids, attention_mask=mask, use_cache=True).past_key_values
    with record(model) as recorder:
        longer = torch.cat([mask, torch.ones((2, 1), dtype=mask.dtype)], dim=1)
        embedded = model.get_input_embeddings()(ids[:, :1])
        model(inputs_embeds=embedded, attention_mask=longer, past_key_values=cache)
    trace = recorder.trace()
    assert trace.position.tolist() == [4, 6]
    assert trace.phase.tolist() == [DECODE, DECODE]
    assert trace.token_id is None


def test_rows_that_go_and_caches_that_are_cut_are_refused(models):
    model = models()
    ids, _ = texts()
    with record(model):
        cache = model(ids, use_cache=True).past_key_values
        cache.crop(-2)
        with pytest.raises(ValueError, match="3 rows after 5 tokens does not continue one of 3 rows with 7"):
            model(ids[:, :1], past_key_values=cache)
    with record(model):
        cache = model(ids, use_cache=True).past_key_values
        cache.batch_select_indices(torch.tensor([0, 2]))
        with pytest.raises(ValueError, match="2 rows after 7 tokens does not continue one of 3 rows"):
            model(ids[:2, :1], past_key_values=cache)
    with record(model), pytest.raises(ValueError, match="attention_mask is not a table"):
        model(ids, attention_mask=torch.ones((3, 1, 7, 7)))


@pytest.mark.parametrize("most", [1, 3])
def test_how_many_passes_are_read_together_changes_nothing(most, models, monkeypatch):
    model = models()
    ids, mask = texts(side="left")
    traces = []
    for passes in (64, most):
        monkeypatch.setattr("remoe_sim.capture.recorder.MOST_PASSES", passes)
        with record(model, probs=True) as recorder:
            by_hand(model, ids, mask, 1)
            model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None)
            model(ids[:2, :3])
        traces.append(recorder.trace())
    np.testing.assert_array_equal(as_table(traces[0]), as_table(traces[1]))
    for index in range(3):
        for kind in ("weights", "probs"):
            one, other = (getattr(trace.source, kind)(index) for trace in traces)
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("most", [64, 1])
def test_a_layer_that_does_not_run_has_null_decisions(most, models, monkeypatch):
    monkeypatch.setattr("remoe_sim.capture.recorder.MOST_PASSES", most)
    model = models()
    ids, _ = texts(rows=1)
    layer = model.model.layers[1]
    with record(model) as recorder:
        model(ids)
        kept, layer.forward = layer.forward, lambda hidden, *rest, **more: hidden
        model(ids)
        layer.forward = kept
    trace = recorder.trace()
    assert trace.decisions(1).routed.tolist() == [True] * 7 + [False] * 7
    assert trace.decisions(0).routed is None
    assert not trace.source.weights(1)[7:].any()


def test_hooks_go_and_errors_say_what_is_wrong(models):
    model = models()
    with record(model) as recorder:
        pass
    model(texts()[0])
    with pytest.raises(ValueError, match="nothing was recorded"):
        recorder.trace()
    with record(model) as recorder:
        model.model(texts()[0])
    with pytest.raises(ValueError, match="outside of a forward pass"):
        recorder.trace()
    import transformers

    plain = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                 num_attention_heads=1)
    )  # fmt: skip
    with pytest.raises(ValueError, match="LlamaForCausalLM has no router"), record(plain):
        pass


def test_routers_can_be_named(models):
    model = models()
    ids, _ = texts()
    with record(model) as found, record(model, routers={1: model.model.layers[1].mlp.gate}) as named:
        model(ids)
    assert named.trace().layer_numbers == (1,)
    np.testing.assert_array_equal(named.trace().decisions(0).experts, found.trace().decisions(1).experts)
    with (
        pytest.raises(ValueError, match="not in MixtralForCausalLM"),
        record(model, routers={0: torch.nn.Linear(2, 2)}),
    ):
        pass


@pytest.mark.parametrize("family", [one for one in ("mixtral", "qwen2_moe", "deepseek_v3") if one in INSTALLED])
def test_look_ahead_is_what_later_routers_make_of_the_input(models, family):
    """The inputs of routers are recorded by hand, and the later routers asked one by one."""
    model, (ids, mask) = models(family), texts(side="left")
    with record(model, ahead=5) as recorder:
        model(ids, attention_mask=mask)
    trace = recorder.trace()
    routers, inputs = [one.module for one in find_routers(model)], {}
    hooks = [
        one.register_forward_pre_hook(lambda _, given, at=at: inputs.update({at: given}))
        for at, one in enumerate(routers)
    ]
    model(ids, attention_mask=mask)
    for hook in hooks:
        hook.remove()
    there = mask.flatten().bool().numpy()
    assert trace.most_ahead == trace.moe_layers - 1
    for at in range(trace.moe_layers - 1):
        for distance in range(1, trace.moe_layers - at):
            later = routers[at + distance]
            output = later(*inputs[at])
            logits = next(one for one in (output if isinstance(output, tuple) else (output,)) if one.shape[-1] == 8)
            logits = logits.reshape(-1, 8).float().numpy()[there]
            bias = correction(model, trace.layer_numbers[at + distance])
            named = trace.ahead(at, distance)
            for row in range(trace.tokens):
                wanted = chosen(family, logits[row].tolist(), named.experts.shape[1], bias)
                assert set(named.experts[row].tolist()) == wanted, (family, at, distance, row)
    with record(model) as recorder:
        model(ids, attention_mask=mask)
    plain = recorder.trace()
    assert plain.most_ahead == 0
    assert all((plain.decisions(at).experts == trace.decisions(at).experts).all() for at in range(trace.moe_layers))
