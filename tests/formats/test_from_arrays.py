"""`from_arrays` gives the trace that a slow loop over the same numbers gives, copies no ids, and notices wrong axes."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim import Model, TraceError, from_arrays
from tests.support.imported import rows_of
from tests.support.strategies import examples

TYPES = (np.uint8, np.uint16, np.int8, np.int32, np.int64)


def drawn(tokens, layers, k=4, experts=16, seed=1):
    return np.argsort(np.random.default_rng(seed).random((tokens, layers, experts)), axis=2)[:, :, :k]


@st.composite
def recordings(draw):
    """Lengths of prompts and of what is generated, for each request, and ids [tokens, layers, k] with empty slots."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4))
    tokens, layers, k = sum(map(sum, lengths)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(TYPES))
    ids = drawn(max(tokens, 1), layers, k, 9, draw(st.integers(0, 99)))[:tokens].astype(kind)
    if tokens and kind not in (np.uint8, np.uint16) and draw(st.booleans()):
        ids[np.random.default_rng(2).random(ids.shape) < 0.2] = -1
    return lengths, ids


def twin(lengths, ids):
    """(request, position, step, phase, experts of each layer by slot) of each token; one token after the other."""
    rows, step, at = [], -1, 0
    for request, (prompt, generated) in enumerate(lengths):
        for position in range(prompt + generated):
            if position == 0 or position >= prompt:
                step += 1
            phase = 0 if position < prompt else 1
            chosen = []
            for layer in range(ids.shape[1]):
                slots = [int(one) for one in ids[at, layer]]
                chosen.append([None if one < 0 else one for one in slots] if any(s >= 0 for s in slots) else None)
            rows.append((request, position, step, phase, chosen))
            at += 1
    return rows


def seen(trace):
    rows = []
    for row in range(trace.tokens):
        chosen = []
        for _, decisions in trace.layers():
            there = [True] * decisions.experts.shape[1] if decisions.valid is None else decisions.valid[row]
            routed = decisions.routed is None or decisions.routed[row]
            slots = zip(decisions.experts[row].tolist(), there, strict=True)
            chosen.append([expert if is_there else None for expert, is_there in slots] if routed else None)
        columns = (trace.request, trace.position, trace.step, trace.phase)
        rows.append((*(int(column[row]) for column in columns), chosen))
    return rows


def empty_as_none(rows):
    """A decision without any expert is one of a token that was not routed."""

    def whole(one):
        return None if one is None or all(slot is None for slot in one) else one

    return [(*row[:4], [whole(one) for one in row[4]]) for row in rows]


@examples(200)
@given(recordings(), st.permutations(("tokens", "layers", "k")), st.sampled_from(("array", "list", "phase")))
def test_it_is_what_a_loop_makes(recording, axes, form):
    lengths, ids = recording
    turned = ids.transpose([("tokens", "layers", "k").index(name) for name in axes])
    offsets = np.cumsum([0, *map(sum, lengths)])
    more = {"prompt_lengths": [prompt for prompt, _ in lengths]}
    if form == "phase":
        more = {"phase": [word for p, g in lengths for word in ["prefill"] * p + ["decode"] * g]}
        more = more if len(ids) else {}
    given_ids = turned.tolist() if form == "list" and ids.size else turned
    trace = from_arrays(given_ids, offsets=offsets, axes=",".join(axes), experts=9, **more)
    assert empty_as_none(seen(trace)) == empty_as_none(twin(lengths, ids))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("axes", ["tokens,layers,k", "layers,tokens,k"])
def test_the_ids_are_not_copied(kind, axes):
    ids = drawn(30, 5).astype(kind)
    trace = from_arrays(ids if axes.startswith("t") else ids.transpose(1, 0, 2), axes=axes)
    assert np.shares_memory(trace.source.ids, ids)


def test_one_layer_and_one_request():
    trace = from_arrays(drawn(30, 1)[:, 0], prompt_lengths=4)
    assert (trace.moe_layers, trace.requests, int((trace.phase == 0).sum())) == (1, 1, 4)


def test_every_function_that_takes_a_trace_takes_it(tmp_path):
    ids = drawn(40, 3)
    trace = from_arrays(ids, experts=16, expert_bytes="3MiB")
    remoe_sim.write_trace(trace, tmp_path / "t.parquet")
    of_file = remoe_sim.replay(tmp_path / "t.parquet", cache=4)
    assert [one.bytes_read for one in remoe_sim.replay(trace, cache=4)] == [one.bytes_read for one in of_file]
    assert remoe_sim.info(trace).to_dict()["tokens"] == 40


def test_it_is_what_the_same_file_is(tmp_path):
    ids, offsets = drawn(40, 3), [0, 15, 40]
    weights = np.random.default_rng(3).random(ids.shape).astype(np.float32)
    np.savez(tmp_path / "t.npz", experts=ids, offsets=offsets, prompt_lengths=[5, 6], weights=weights)
    read = remoe_sim.import_trace(tmp_path / "t.npz")
    made = from_arrays(ids, offsets=offsets, prompt_lengths=[5, 6], weights=weights)
    assert rows_of(made) == rows_of(read)
    for index in range(3):
        assert np.array_equal(made.source.weights(index), read.source.weights(index))


@pytest.mark.parametrize("turned", [False, True])
def test_logits_give_the_largest_and_keep_probabilities(turned):
    logits = np.random.default_rng(4).normal(size=(20, 3, 8)).astype(np.float32)
    logits[0, 0] = 1  # equal ones in the order of their numbers
    given_logits = logits.transpose(1, 0, 2) if turned else logits
    axes = "layers,tokens,k" if turned else "tokens,layers,k"
    trace = from_arrays(logits=given_logits, top_k=3, axes=axes)
    for token in range(20):
        for layer in range(3):
            right = sorted(range(8), key=lambda e: (-logits[token, layer, e], e))[:3]
            assert trace.decisions(layer).experts[token].tolist() == right
            powers = [np.exp(float(one)) for one in logits[token, layer]]
            shares = np.array(powers) / sum(powers)
            assert np.allclose(trace.source.probs(layer)[token], shares, atol=1e-3)
            assert np.allclose(trace.source.weights(layer)[token], shares[right], atol=1e-5)


def test_logits_next_to_ids_are_kept():
    logits = np.random.default_rng(4).normal(size=(20, 3, 16))
    trace = from_arrays(drawn(20, 3), logits=logits)
    assert trace.model.experts == (16, 16, 16)
    assert np.allclose(trace.source.probs(1).sum(axis=1), 1, atol=1e-2)


@pytest.mark.heavy("torch")
def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    ids = drawn(30, 5)
    made = from_arrays(torch.tensor(ids), offsets=torch.tensor([0, 10, 30]), prompt_lengths=torch.tensor([3, 4]))
    assert rows_of(made) == rows_of(from_arrays(ids, offsets=[0, 10, 30], prompt_lengths=[3, 4]))
    logits = torch.randn(30, 2, 8, dtype=torch.bfloat16, requires_grad=True)
    assert from_arrays(logits=logits, top_k=2).model.top_k == (2, 2)


@pytest.mark.parametrize(
    ("shape", "more", "axes"),
    [
        ((5, 30, 4), {"offsets": [0, 10, 30]}, "layers,tokens,k"),
        ((5, 30, 4), {"phase": ["decode"] * 30}, "layers,tokens,k"),
        ((24, 30, 4), {"model": "qwen1.5-moe-a2.7b"}, "layers,tokens,k"),
        ((30, 4, 24), {"model": "qwen1.5-moe-a2.7b"}, "tokens,k,layers"),
        ((30, 4, 20), {"experts": 16}, "tokens,k,layers"),
        ((26, 300, 4), {}, "layers,tokens,k"),
        ((5, 300, 4), {"axes": "tokens,layers,k"}, "layers,tokens,k"),
        ((300, 5, 4), {"axes": "layers,tokens,k"}, "tokens,layers,k"),
    ],
)
def test_wrong_axes_are_noticed(shape, more, axes):
    ids = np.zeros(shape, np.uint8) + np.arange(shape[2], dtype=np.uint8)
    with pytest.raises(ValueError, match=f"if the axes are others, give axes='{axes}'"):
        from_arrays(ids, **more)


def test_k_before_layers_is_noticed_by_repeated_experts():
    ids = drawn(30, 20)
    with pytest.raises(ValueError, match=r"twice among the 20 of a layer; if the axes are others, .*'tokens,k,layers'"):
        from_arrays(ids.transpose(0, 2, 1))
    assert from_arrays(ids.transpose(0, 2, 1), axes="tokens,k,layers").moe_layers == 20


def test_many_layers_are_taken_where_offsets_say_so():
    assert from_arrays(drawn(3, 300), offsets=[0, 3]).moe_layers == 300


@pytest.mark.parametrize(
    ("given_ids", "more", "why"),
    [
        ("ids.npy", {}, "ids are of type str; give an array or lists of whole numbers"),
        (None, {}, "neither ids nor logits are given"),
        ({0: [1]}, {}, "ids are of type dict"),
        (drawn(5, 2) / 2, {}, "ids hold float64"),
        ([[[1, 2]], [[1]]], {}, "ids cannot be read as an array"),
        ([1, 2], {}, "ids have the shape .2,.; give three axes"),
        (drawn(5, 2), {"offsets": [0, 2, 6]}, "there are 5 tokens, but offsets or phases are of 6; correct one"),
        (drawn(5, 2), {"offsets": [1, 2, 5]}, "offsets must rise from 0 to the 5 tokens"),
        (drawn(5, 2), {"offsets": 5}, "offsets have the shape"),
        (drawn(5, 2), {"prompt_lengths": [1, 2]}, "prompt_lengths have the shape .2,. for 1 requests"),
        (drawn(5, 2), {"prompt_lengths": 9}, "9 for request 0, which has 5 tokens"),
        (drawn(5, 2), {"prompt_lengths": 1, "phase": "decode"}, "give one of them"),
        (drawn(5, 2), {"phase": "decoding"}, "phase 'decoding' is not possible"),
        (drawn(5, 2), {"phase": [0, 1, 2, 1, 1]}, "phase is int64"),
        (drawn(5, 2), {"axes": "tokens,layers"}, "axes 'tokens,layers' are not possible"),
        (drawn(5, 2), {"experts": "16"}, "experts '16' is not possible"),
        (drawn(5, 2), {"experts": 16, "logits": np.zeros((5, 2, 17))}, "experts says 16 and logits says 17"),
        (drawn(5, 2), {"weights": np.ones((5, 2))}, "weights have the shape"),
        (drawn(5, 2), {"model": 3}, "model is of type int"),
        (drawn(5, 2), {"model": "qwen1.5-moe-a2.7b"}, "there are 2 layers, but the model has 24 MoE layers"),
        (drawn(5, 2), {"quant": "q4_k_m"}, "goes with a model by name"),
        (drawn(5, 2), {"expert_bytes": [1, 2, 3]}, "expert_bytes has 3 sizes for 2 layers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(given_ids, more, why):
    with pytest.raises(ValueError, match=why):
        from_arrays(given_ids, **more)


def test_logits_need_k():
    with pytest.raises(ValueError, match="give top_k"):
        from_arrays(logits=np.zeros((3, 2, 8)))
    assert from_arrays(logits=np.zeros((3, 2, 8)), model=Model(8, 2)).model.top_k == (2, 2)


@pytest.mark.parametrize(
    ("change", "more", "why"),
    [
        (-2, {}, "expert -2 is not possible"),
        (16, {"experts": 16}, "token 3, layer 1.: expert 16"),
        (70000, {}, "70000"),
    ],
)
def test_impossible_ids_are_refused(change, more, why):
    ids = drawn(5, 2)
    ids[3, 1, 2] = change
    with pytest.raises(TraceError, match=why):
        from_arrays(ids, **more)


def test_an_expert_twice_is_refused_with_its_place():
    ids = drawn(5, 2)
    ids[3, 1] = 4
    with pytest.raises(TraceError, match=r"row 3, column 'experts_01': expert 4 appears twice"):
        from_arrays(ids, experts=16)


def test_impossible_weights_are_refused():
    weights = np.ones((5, 2, 4))
    weights[2, 1, 0] = -1
    with pytest.raises(TraceError, match=r"weights.token 2, layer 1.: -1.0 cannot be a gate weight"):
        from_arrays(drawn(5, 2), weights=weights)


def test_what_a_model_says():
    trace = from_arrays(drawn(9, 24), model="qwen1.5-moe-a2.7b", quant="q4_k_m")
    sized = remoe_sim.model("qwen1.5-moe-a2.7b", "q4_k_m")
    assert (trace.model.expert_bytes, trace.model.dense_bytes) == (sized.expert_bytes, sized.dense_bytes)
    assert (trace.layer_numbers, set(trace.model.experts)) == (sized.moe_layers, {sized.experts})
    unsized = from_arrays(drawn(9, 24), model="qwen1.5-moe-a2.7b").model
    assert (unsized.expert_bytes, unsized.quant, unsized.name) == (None, None, "qwen1.5-moe-a2.7b")
    assert from_arrays(drawn(9, 24), model=sized).model.expert_bytes == sized.expert_bytes
    assert from_arrays(drawn(9, 3), model=Model(experts=32)).model.experts == (32, 32, 32)


def test_look_ahead_choices_are_arrays_like_ids():
    ids = np.array([[[0, 1], [2, 3], [4, 5]], [[1, 2], [3, 4], [5, 0]]], np.uint8)
    one = np.array([[[2, 0], [4, 1], [-1, -1]], [[-1, -1], [5, 0], [-1, -1]]])
    two = np.array([[[4, 5], [-1, -1], [-1, -1]]] * 2)
    trace = remoe_sim.from_arrays(ids, ahead=[one, two], experts=6)
    assert trace.most_ahead == 2
    assert trace.ahead(0).experts[0].tolist() == [2, 0]
    assert trace.ahead(0).routed.tolist() == [True, False]
    assert trace.ahead(1).experts.tolist() == [[4, 1], [5, 0]]
    assert trace.ahead(0, 2).experts.tolist() == [[4, 5]] * 2
    assert trace.ahead(1, 2) is None
    assert [one.foreseen for one in remoe_sim.info(trace).ahead] == [1, 3, 3]
    flat = remoe_sim.from_arrays(
        ids.transpose(1, 0, 2), ahead=one.transpose(1, 0, 2), axes="layers,tokens,k", experts=6
    )
    assert flat.ahead(1).experts.tolist() == [[4, 1], [5, 0]]
    with pytest.raises(ValueError, match=r"ahead has the shape \(2, 3, 1\), which does not fit ids"):
        remoe_sim.from_arrays(ids, ahead=one[..., :1], experts=6)
    with pytest.raises(TraceError, match="column 'ahead1_00': expert 6 is not below"):
        remoe_sim.from_arrays(ids, ahead=one + 4, experts=6)
    with pytest.raises(ValueError, match="ahead goes with ids"):
        remoe_sim.from_arrays(logits=np.zeros((2, 3, 6)), top_k=2, ahead=one)
