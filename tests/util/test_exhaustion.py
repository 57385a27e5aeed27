"""Memory, threads, numbers and settings of the compiler that are not there or too large: one sentence each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import remoe_sim
from remoe_sim.util.units import parse_bytes, parse_count, parse_ms, parse_number
from tests.support.data import DEMO
from tests.support.many_commands import how_they_end

pytestmark = pytest.mark.once
REPLAY = ["replay", DEMO, "--cache", "8", "--policy", "lru"]
HUGE = "1" * 405


def run(*arguments, before="", **variables):
    code = f"{before}\nfrom remoe_sim.cli import run\nrun()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env={**os.environ, **variables}
    )


def refused(done, part):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert part in done.stderr


@pytest.mark.parametrize("text", [HUGE, f"{HUGE}.5", f"{HUGE}GiB", f"{'1' * 5000}MB", 10**405, 10**5000], ids="abcdef")
def test_a_size_of_any_length_is_no_traceback(text):
    with pytest.raises(ValueError, match="is too large a size; at most") as refusal:
        parse_bytes(text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("parse", [parse_count, parse_number, parse_ms])
@pytest.mark.parametrize("text", [HUGE, f"{HUGE}.5", "1" * 5000, 10**405, 10**5000, -(10**5000)], ids="abcdef")
def test_a_number_of_any_length_is_no_traceback(parse, text):
    with pytest.raises(ValueError, match="is not possible; give a") as refusal:
        parse(text, "it")
    assert len(str(refusal.value)) < 200


def test_sizes_are_as_before():
    sizes = {
        "4000MiB": 4000 * 2**20,
        "1.5 GB": 15 * 10**8,
        "4096": 4096,
        "007kB": 7000,
        ".5KiB": 512,
        "0": 0,
        f".5{'0' * 405}KiB": 512,
        "3.": 3,
    }
    assert {text: parse_bytes(text) for text in sizes} == sizes


@pytest.mark.parametrize("digits", [405, 5000])
def test_numbers_of_cards_and_configurations(digits, tmp_path):
    card = tmp_path / "d.toml"
    text = Path(remoe_sim.__file__).with_name("devices").joinpath("cards", "rtx-4090.toml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("memory_bytes"))
    value = line.split("value = ")[1].split(",")[0]
    card.write_text(text.replace(line, line.replace(value, "1" * digits)))
    with pytest.raises(ValueError, match=r"memory_bytes|is no valid TOML"):
        remoe_sim.device(str(card))
    values = {"num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 9, "num_experts": 4, "num_experts_per_tok": 2,
              "moe_intermediate_size": 8, "num_attention_heads": 1}  # fmt: skip
    commands = {}
    for name in values:
        config = tmp_path / f"{name}.json"
        config.write_text(json.dumps(values).replace(f'"{name}": {values[name]}', f'"{name}": {"1" * digits}'))
        commands[name] = ["estimate", "--model", str(config), "--device", "rtx-4090", "--hit-rate", "0.5"]
    ended = how_they_end(commands, tmp_path)
    assert {name: code for name, (code, _) in ended.items()} == dict.fromkeys(values, 2)
    assert not any("Traceback" in said for _, said in ended.values())


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
def test_memory_that_runs_out_is_a_sentence(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))"
    done = run(
        "synth", "--tokens", "400000000", "--layers", "60", "--experts", "64", "-o", str(tmp_path / "t.parquet"),
        before=limit,
    )  # fmt: skip
    refused(done, "memory ran out")


@pytest.mark.skipif(sys.platform != "linux", reason="a stack of no size that fits")
def test_a_thread_that_cannot_be_started_is_a_sentence():
    if os.cpu_count() == 1:
        pytest.skip("one processor works without threads")
    refused(run(*REPLAY, before="import threading; threading.stack_size(2**46)"), "start no further thread")


@pytest.mark.parametrize(
    ("name", "value"),
    [("NUMBA_NUM_THREADS", "abc"), ("NUMBA_NUM_THREADS", "0"), ("NUMBA_CPU_FEATURES", "zzz"), ("NUMBA_OPT", "x"),
     ("NUMBA_DISABLE_JIT", "maybe"), ("NUMBA_CACHE_LOCATOR_CLASSES", "Foo")],
)  # fmt: skip
def test_a_setting_that_the_compiler_does_not_know_is_named(name, value):
    refused(run(*REPLAY, **{name: value}), f"{name}='{value}'")


def test_good_settings_of_the_compiler_are_taken():
    done = run(*REPLAY, NUMBA_NUM_THREADS="1", NUMBA_CPU_FEATURES="", NUMBA_OPT="3")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_what_a_fault_of_the_program_raises_keeps_its_traceback():
    from remoe_sim.util.errors import in_words

    assert in_words(RuntimeError("dictionary changed size during iteration")) is None
    assert in_words(OverflowError("int too large")) == (
        "a number is too large to compute with (int too large); give a smaller one"
    )
