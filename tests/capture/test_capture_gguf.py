"""Capture from GGUF files: what llama.cpp's routers choose, on tiny random models that are written here."""

import ctypes
import json
import signal

import click
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("gguf")

import remoe_sim
from remoe_sim import cli
from remoe_sim.capture import llama, llama_run, llama_tensors, run
from remoe_sim.capture.llama import loaded
from remoe_sim.capture.llama_tensors import RoutingTensors
from tests.support.tiny_gguf import BLANK, EXPERTS, FAMILIES, HEADS, TOP_K, WORDS, save_tiny_gguf, tensors

pytestmark = [pytest.mark.heavy("llama_cpp"), pytest.mark.filterwarnings("ignore")]
PROMPTS = ["the cat sat on", "a dog", "the dog ran to its home and"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {family: save_tiny_gguf(folder / f"{family}.gguf", family) for family in FAMILIES}


@pytest.fixture(scope="module")
def olmoe(models):
    return models["olmoe"]


def text_of(ids):
    return "".join(WORDS[one] for one in ids).replace(BLANK, " ")


def softmax(values):
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# --- what the model's own tensors say


class Beginning(ctypes.Structure):
    """How a tensor of ggml begins in the version that the tests run with."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
    )


class Everything(RoutingTensors):
    """A callback that reads the logits of every router, value by value; `apart`: the strides of the top k."""

    def __init__(self):
        import llama_cpp

        super().__init__(False)
        self.logits, self.apart, self.known = {}, set(), {}
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self.seen)

    def seen(self, tensor, ask, _):
        name, _, layer = self._ggml.name(tensor).decode().partition("-")
        if name not in ("ffn_moe_logits", "ffn_moe_logits_biased", "ffn_moe_topk", "ffn_moe_probs"):
            return False
        if not ask:
            about = Beginning.from_address(tensor)
            if name == "ffn_moe_topk":
                self.apart.add((about.ne[1], about.nb[1]))
            elif self._ggml.operation(tensor) in (b"MUL_MAT", b"ADD"):  # the last of these: biased, if there is a bias
                value = ctypes.c_float()
                table = np.empty((about.ne[1], about.ne[0]), np.float32)
                for row, column in np.ndindex(*table.shape):
                    self._ggml.get(tensor, ctypes.addressof(value), row * about.nb[1] + column * about.nb[0], 4)
                    table[row, column] = value.value
                self.known[int(layer)] = table
        return True

    def choose(self):
        self.known = {}

    def passed(self, tokens):
        for layer, table in self.known.items():
            self.logits.setdefault(layer, []).append(table)
        return [tokens]


def choice_of(family, logits, bias):
    """Experts, gate weights and probs of a family, by its own rule."""
    scores = 1 / (1 + np.exp(-logits)) if family == "dots1" else softmax(logits)
    experts = np.argsort(-(scores + bias), axis=1)[:, :TOP_K]
    weights = np.take_along_axis(scores, experts, 1)
    if family != "olmoe":
        weights = weights / weights.sum(1, keepdims=True) * (2.5 if family == "dots1" else 1)
    order = np.argsort(-weights, axis=1, kind="stable")
    return *(np.take_along_axis(one, order, 1) for one in (experts, weights)), scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_decisions_are_what_the_models_rule_makes_of_its_own_logits(family, models):
    trace = run(models[family], PROMPTS[:1], max_new_tokens=6, probs=True)
    assert trace.layer_numbers == ((1, 2) if family == "dots1" else (0, 1, 2))
    ids, prompt = trace.token_id.tolist(), int((trace.phase == 0).sum())
    assert (len(ids), prompt, trace.step.tolist()) == (20, 15, [0] * 15 + [1, 2, 3, 4, 5])
    with loaded(models[family], "cpu") as model:
        everything = Everything()
        model.open(everything, 1, 64)
        for start, end in [(0, prompt), *((at, at + 1) for at in range(prompt, len(ids)))]:
            model.decode([(0, at, ids[at]) for at in range(start, end)])
    assert (15, EXPERTS * 4) in everything.apart  # the trap is there: rows of two experts are six apart
    written = {name: (shape, deviation) for name, shape, deviation in tensors(family, 3, EXPERTS, 32, 16)}
    for index, layer in enumerate(trace.layer_numbers):
        bias = 0.0
        if f"blk.{layer}.exp_probs_b.bias" in written:
            bias = next(one for name, one in values_of(family).items() if name == f"blk.{layer}.exp_probs_b.bias")
        experts, weights, probs = choice_of(family, np.concatenate(everything.logits[layer]), bias)
        assert (trace.decisions(index).experts == experts).all()
        np.testing.assert_allclose(trace.source.weights(index), weights, rtol=1e-4)
        np.testing.assert_allclose(trace.source.probs(index), probs, atol=1e-3)
    assert ("scores" if family == "dots1" else "a softmax") in trace.notes


# --- a forward pass of our own


def values_of(family):
    """The weights of a tiny model, as they were written."""
    rng = np.random.default_rng(0)
    return {
        name: np.ones(shape) if deviation is None else rng.normal(0, deviation, shape)
        for name, shape, deviation in tensors(family, 3, EXPERTS, 32, 16)
    }


def routing_by_hand(ids):
    """The router's logits of each layer of the tiny OLMoE, in double precision."""
    of, hidden, found = values_of("olmoe"), None, []

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * of[weight]

    def rotated(x):
        half = x.shape[-1] // 2
        angle = np.arange(len(ids))[:, None] / 10000 ** (np.arange(half) / half)
        cos, sin, (a, b) = np.cos(angle)[:, None], np.sin(angle)[:, None], np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    hidden = of["token_embd.weight"][ids]
    later = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for layer in range(3):
        at = f"blk.{layer}."
        x = norm(hidden, at + "attn_norm.weight")
        q, k, v = (x @ of[f"{at}attn_{name}.weight"].T for name in "qkv")
        q, k = norm(q, at + "attn_q_norm.weight"), norm(k, at + "attn_k_norm.weight")
        q, k, v = (one.reshape(len(ids), HEADS, -1) for one in (q, k, v))
        scores = np.einsum("qhd,khd->hqk", rotated(q), rotated(k)) / np.sqrt(q.shape[-1])
        mixed = np.einsum("hqk,khd->qhd", softmax(scores + later), v).reshape(len(ids), -1)
        hidden = hidden + mixed @ of[at + "attn_output.weight"].T
        x = norm(hidden, at + "ffn_norm.weight")
        found.append(x @ of[at + "ffn_gate_inp.weight"].T)
        weights = softmax(found[-1])
        weights[weights < np.sort(weights)[:, -TOP_K, None]] = 0
        gate, up = (np.einsum("nd,eid->nei", x, of[f"{at}ffn_{name}_exps.weight"]) for name in ("gate", "up"))
        inner = gate / (1 + np.exp(-gate)) * up
        hidden = hidden + np.einsum("ne,nei,edi->nd", weights, inner, of[at + "ffn_down_exps.weight"])
    return found


def test_decisions_are_those_of_a_forward_pass_by_hand(olmoe):
    trace = run(olmoe, PROMPTS, max_new_tokens=12)
    for request in range(3):
        rows = np.flatnonzero(trace.request == request)
        assert trace.position[rows].tolist() == list(range(rows.size))
        for index, logits in enumerate(routing_by_hand(trace.token_id[rows])):
            ordered = np.sort(logits)[:, ::-1]
            clear = (-np.diff(ordered)[:, :TOP_K] > 0.02).all(1)  # llama.cpp keeps the context in 16 bits
            expected = np.argsort(-logits, axis=1)[:, :TOP_K]
            assert clear.mean() > 0.9
            assert (trace.decisions(index).experts[rows][clear] == expected[clear]).all()
            weights = np.take_along_axis(softmax(logits), expected, 1)
            np.testing.assert_allclose(trace.source.weights(index)[rows][clear], weights[clear], atol=0.01)


# --- passes, requests, phases


def test_the_last_layer_is_pruned_unless_all_tokens_are_asked_for(olmoe):
    with loaded(olmoe, "cpu") as model:
        seen = RoutingTensors(False)
        model.open(seen, 1, 64)
        assert model.decode([(0, at, 5 + at) for at in range(5)]) == [5]
        model.forget()
        decode = model._api.llama_decode

        class Api:
            def __getattr__(self, name):
                return getattr(llama_cpp, name)

            def llama_decode(self, context, batch):
                for at in range(4):
                    batch.logits[at] = 0
                return decode(context, batch)

        llama_cpp, model._api = model._api, Api()
        with pytest.raises(ValueError, match="layer 2 routed 1 tokens of 5; only models that route every token once"):
            model.decode([(0, at, 5 + at) for at in range(5)])


@pytest.mark.parametrize("family", FAMILIES)
def test_generating_and_reading_what_was_generated_route_alike(family, models, tmp_path):
    trace = run(models[family], PROMPTS[2:], max_new_tokens=24)
    generated = trace.token_id[trace.phase == 1]
    assert trace.tokens == 28 + generated.size
    pair = {"prompt": PROMPTS[2], "completion": text_of(generated)}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    forced = run(models[family], tmp_path / "pairs.jsonl", teacher_force=True)
    assert "one prefill step" in forced.notes
    for name in ("token_id", "phase", "position", "step", "request"):
        assert (getattr(forced, name) == getattr(trace, name)).all(), name
    same = [
        (trace.decisions(index).experts == forced.decisions(index).experts).all(1).mean()
        for index in range(trace.moe_layers)
    ]
    assert min(same) > 0.97  # what was computed alone and what was computed together differ in the last digits
    alone = run(models[family], [text_of(trace.token_id[1:])], teacher_force=True)
    assert (alone.phase == 1).all()
    assert (alone.step == np.arange(trace.tokens)).all()
    assert (alone.decisions(0).experts == forced.decisions(0).experts).all()


def test_a_long_prompt_is_as_many_steps_as_llama_cpp_makes_of_it(olmoe, monkeypatch):
    text = (" ".join(PROMPTS) + " ") * 24
    whole = run(olmoe, [text, "a"], max_new_tokens=3)
    assert np.bincount(whole.step).tolist() == [512, 512, len(text) + 1 - 1024, 1, 1, 2, 1, 1]
    assert "prompts were computed in steps of at most 512 tokens" in whole.notes
    monkeypatch.setattr(llama_run, "PASS_TOKENS", 100)
    parts = run(olmoe, [text, "a"], max_new_tokens=3)
    assert np.bincount(parts.step)[:3].tolist() == [100, 100, 100]
    assert (whole.token_id == parts.token_id).all()
    for index in range(3):
        assert (whole.decisions(index).experts == parts.decisions(index).experts).all(1).mean() > 0.97
    import llama_cpp

    opened = llama_cpp.llama_init_from_model

    def in_small_parts(model, settings):
        settings.n_ubatch = 32
        return opened(model, settings)

    monkeypatch.setattr(llama_cpp, "llama_init_from_model", in_small_parts)
    smaller = run(olmoe, [text, "a"], max_new_tokens=3)
    assert np.bincount(smaller.step)[:4].tolist() == [32, 32, 32, 4]
    assert (smaller.position == parts.position).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_requests_that_run_together_route_as_they_do_alone(family, models):
    alone, together = (run(models[family], PROMPTS, max_new_tokens=6, batch=batch) for batch in (1, 2))
    rows = [np.lexsort((one.position, one.request)) for one in (alone, together)]
    for name in ("request", "position", "phase", "token_id"):
        assert (getattr(alone, name)[rows[0]] == getattr(together, name)[rows[1]]).all(), name
    for index in range(alone.moe_layers):
        one, other = (trace.decisions(index).experts[row] for trace, row in zip((alone, together), rows, strict=True))
        assert (one == other).all(1).mean() > 0.95
    assert np.bincount(together.step).tolist() == [15, 6, 2, 2, 2, 2, 2, 28, 1, 1, 1, 1, 1]
    assert together.request[:25].tolist() == [0] * 15 + [1] * 6 + [0, 1] * 2


def test_a_request_that_ends_leaves_the_others(olmoe, tmp_path):
    free = run(olmoe, PROMPTS[:2], max_new_tokens=8)
    generated = [free.token_id[(free.request == one) & (free.phase == 1)] for one in (0, 1)]
    end = next(one for one in generated[0].tolist()[1:] if one not in generated[1])
    path = save_tiny_gguf(tmp_path / "ends.gguf", end=end)
    ended = run(path, PROMPTS[:2], max_new_tokens=8, batch=2)
    lengths = [int(((ended.request == one) & (ended.phase == 1)).sum()) for one in (0, 1)]
    assert lengths == [generated[0].tolist().index(end), 7]
    assert end not in ended.token_id
    one = run(path, PROMPTS[:1], max_new_tokens=1)
    assert (one.phase == 0).all()


def test_what_the_file_says_of_itself_is_in_the_trace(models):
    for family, path in models.items():
        trace, sized = run(path, ["ab"], max_new_tokens=2), remoe_sim.model(path)
        about = trace.model
        assert (about.name, about.layers, about.quant) == (family, 3, "all_f32")
        assert (about.expert_bytes, about.dense_bytes) == (sized.expert_bytes, sized.dense_bytes)
        assert about.experts == (6,) * trace.moe_layers
        assert about.top_k == (2,) * trace.moe_layers
        assert trace.origin == {"format": "capture", "path": path.name, "sha256": None}
        assert trace.source.probs(0) is None


def test_messages_go_through_the_files_template(olmoe, tmp_path):
    template = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}{% endfor %}"
    path = save_tiny_gguf(tmp_path / "chat.gguf", template=template)
    (tmp_path / "p.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}')
    trace = run(path, tmp_path / "p.jsonl", max_new_tokens=1)
    assert text_of(trace.token_id) == "<s>user:hi"
    with pytest.raises(ValueError, match=r"p\.jsonl, line 1: the model has no chat template"):
        run(olmoe, tmp_path / "p.jsonl")
    path = save_tiny_gguf(tmp_path / "odd.gguf", template="{{ raise_exception('no user\nhere') }}")
    with pytest.raises(ValueError, match=r"template does not take the messages \(no user here\)"):
        run(path, tmp_path / "p.jsonl")


# --- the command, and what goes wrong


def test_the_command_writes_a_trace_that_replays(olmoe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    arguments = ["capture", str(olmoe), "--prompts", "prompts.txt", "--max-new-tokens", "5", "-o", "t.parquet"]
    result = CliRunner().invoke(cli.main, [*arguments, "--probs", "--batch", "300"])
    assert result.exit_code == 0, result.exception
    assert result.stdout.startswith(
        "wrote t.parquet: 61 tokens (49 prefill, 12 decode), 3 requests, 3 MoE layers, 6 ex"
    )
    assert capfd.readouterr().err == ""  # llama.cpp has much to say
    replayed = CliRunner().invoke(cli.main, ["replay", "t.parquet", "--cache", "4"])
    assert replayed.exit_code == 0, replayed.exception
    assert remoe_sim.read_trace("t.parquet").source.probs(2).shape == (61, 6)


def test_what_cannot_be_run_is_one_sentence(olmoe, tmp_path):
    whole = olmoe.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-1000])
    (tmp_path / "text.gguf").write_text("no model, but a text that is long enough to be one" * 9)
    save_tiny_gguf(tmp_path / "lacks.gguf", keep=lambda name: name != "blk.1.attn_q.weight")
    for arguments, sentence in (
        ({"model": tmp_path / "none.gguf"}, r"none.gguf' cannot be read \(No such file"),
        ({"model": tmp_path / "cut.gguf"}, "cut.gguf' is no whole GGUF file"),
        ({"model": str(tmp_path / "text.gguf")}, "text.gguf' is no whole GGUF file"),
        ({"model": tmp_path / "lacks.gguf"}, r"cannot load '.*lacks.gguf' \(.*'blk.1.attn_q.weight' not found\)"),
        ({"device": "abacus"}, "device 'abacus' is unknown; give auto, cpu, cuda, cuda:N or mps"),
        ({"device": "mps:1"}, "device 'mps:1' is unknown"),
        ({"tokenizer": object()}, "a GGUF file has its own tokenizer"),
        ({"prompts": ["ab"] * 300, "batch": 300}, "batch 300 is more than llama.cpp runs at once; give 256 or less"),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            run(**{"model": olmoe, "prompts": ["ab"], "device": "cpu", **arguments})
        assert "\n" not in str(error.value)


def test_what_llama_cpp_fails_at_is_one_sentence(olmoe, monkeypatch):
    import llama_cpp

    monkeypatch.setattr(llama_cpp, "llama_decode", lambda context, batch: -3)
    with pytest.raises(ValueError, match=r"llama\.cpp cannot evaluate '.*olmoe\.gguf' \(code -3\)"):
        run(olmoe, ["ab"])
    monkeypatch.setattr(llama_cpp, "llama_init_from_model", lambda model, settings: None)
    with pytest.raises(ValueError, match=r"no room for 131 tokens of context; give shorter texts"):
        run(olmoe, ["ab"])


def test_a_model_whose_routers_do_not_tell_is_refused():
    for names, sentence in (
        (["ffn_moe_topk-0", "ffn_moe_weights-0", "ffn_moe_topk-0"], "layer 0 routes a token more than once"),
        (["ffn_moe_topk-7"], "layer 7 shows no weights of its router"),
        (["ffn_moe_topk-7", "ffn_moe_weights-7"], "layer 7 shows no probs of its router"),
        (["ffn_moe_probs-7", "ffn_moe_weights-7"], "showed no router"),
    ):
        seen = RoutingTensors("probs" in sentence)
        seen._seen = names
        with pytest.raises(ValueError, match=sentence):
            seen.choose()


@pytest.mark.parametrize("how", ["raised", "signalled"])
def test_an_interrupt_ends_it_and_leaves_no_file(how, olmoe, tmp_path, monkeypatch):
    def interrupt(*_):
        if how == "raised":
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RoutingTensors, "_keep", interrupt)
    before = signal.getsignal(signal.SIGINT)
    (tmp_path / "prompts.txt").write_text("ab")
    arguments = ["capture", str(olmoe), "--prompts", str(tmp_path / "prompts.txt"), "-o", str(tmp_path / "t.parquet")]
    with pytest.raises(click.Abort):
        cli.main(arguments, standalone_mode=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.glob("t.*"))


def test_many_passes_are_kept_in_few_arrays(monkeypatch):
    monkeypatch.setattr(llama_tensors, "_JOINED", 3)
    column = llama_tensors.Column()
    for at in range(10):
        column.add(np.full((1, 2), at))
    assert len(column._joined) + len(column._pieces) == 4
    assert column.whole()[:, 0].tolist() == list(range(10))


def test_another_thread_may_capture(olmoe):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        trace = pool.submit(run, olmoe, ["ab"], max_new_tokens=2).result()
    assert trace.tokens == 4
    assert llama.PASS_TOKENS == 512
