"""Models on the Hub: only configurations and headers are fetched, by ranges, from the server that HF_ENDPOINT names."""

import json

import pytest

import remoe_sim
from tests.support.configs import CONFIGS
from tests.support.web_server import Flaky, serving


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that is served as the Hub serves a repository."""
    folder = tmp_path / "org" / "my-moe" / "resolve" / "main"
    folder.mkdir(parents=True)
    with serving(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield folder, server


def test_a_configuration_is_enough(hub):
    folder, _ = hub
    (folder / "config.json").write_text(json.dumps(CONFIGS["qwen3-30b-a3b"]))
    found = remoe_sim.model("hf://org/my-moe", "q4_k_m")
    given = remoe_sim.model(folder / "config.json", "q4_k_m")
    assert (found.expert_bytes, found.total_bytes) == (given.expert_bytes, given.total_bytes)
    assert found.name == "my-moe"
    assert found.source == "config.json of org/my-moe on the Hub"
    (folder / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 123456}}')
    assert "take 123,456 bytes" in remoe_sim.model("hf://org/my-moe").notes[-1]


def test_of_a_gguf_file_the_header_is_read_and_no_more(hub, monkeypatch):
    pytest.importorskip("gguf")
    from remoe_sim.models import hub as module
    from tests.support.tiny_gguf import save_tiny_gguf

    folder, server = hub
    path = folder / "tiny-q8_0.gguf"
    save_tiny_gguf(path)
    given = remoe_sim.model(path)
    with path.open("ab") as file:
        file.write(bytes(2**20))  # weights that nobody asked for
    monkeypatch.setattr(module, "FIRST", 512)
    found = remoe_sim.model("hf://org/my-moe/tiny-q8_0.gguf")
    assert found.expert_bytes == given.expert_bytes
    sent = [size for name, _, size in server.sent if name.endswith(".gguf")]
    assert len(sent) > 1
    assert max(sent) < path.stat().st_size


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hf://org", "'hf://org' is no place on the Hub; give hf://org/name"),
        ("hf://org/my-moe", "'config.json' of org/my-moe is not there; name a file"),
        ("hf://org/my-moe/none.gguf", "'none.gguf' of org/my-moe is not there"),
        ("hf://org/my-moe/text.gguf", "is no whole GGUF file"),
    ],
)
def test_what_is_not_there_is_said(hub, text, sentence):
    folder, _ = hub
    (folder / "text.gguf").write_text("nothing of the kind, but long enough")
    with pytest.raises(ValueError, match=sentence):
        remoe_sim.model(text)


def test_servers_that_do_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"cannot be reached .*; fetch config.json or a GGUF file yourself"):
        remoe_sim.model("hf://org/name")
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(ValueError, match="give an address that begins with https://"):
        remoe_sim.model("hf://org/name")
    with serving(tmp_path, Flaky, lost=1) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(ValueError, match="answered with 503"):
            remoe_sim.model("hf://org/name")
