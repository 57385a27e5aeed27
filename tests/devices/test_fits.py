"""Does it fit? What a run keeps in memory, held against the memory of its device and its host."""

import json

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from remoe_sim.devices.fits import cache_bytes, fit_of, fit_of_tiers, room
from remoe_sim.util.cards import Fact, card_names

MIB = 2**20
SAMPLE = "sample:qwen-original"


def run(*words):
    return CliRunner().invoke(cli.main, list(words))


def estimated(*words):
    return run("estimate", "--quant", "q4_k_m", "--json", *words)


def test_a_model_that_is_too_large_is_said_to_miss_its_bytes():
    words = ["--model", "deepseek-v3", "--device", "jetson-orin-nano-4gb", "--hit-rate", "0.5"]
    answer = estimated(*words)
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    model, device = remoe_sim.model("deepseek-v3", "q4_k_m"), remoe_sim.device("jetson-orin-nano-4gb")
    cached = round(sum(512 * (one or 0) for one in model.kv_bytes_per_token))
    needed = sum(model.resident_bytes) + model.head_bytes + model.embedding_bytes + cached
    assert result["fits"] is False
    assert result["missing_bytes"] == needed - (device.usable_bytes - device.system_bytes) > 7000 * MIB
    assert result["room_bytes"] == 0
    said = [line for line in answer.stderr.splitlines() if "does not fit" in line]
    assert len(said) == 1
    assert said[0].endswith("device jetson-orin-nano-4gb has 2,596.0 MiB and needs 10,052.9 MiB, 7,456.9 MiB more")
    strict = estimated(*words, "--strict")
    assert (strict.exit_code, strict.stdout) == (3, answer.stdout)


def test_what_fits_and_what_nobody_can_know():
    words = ["--model", "qwen1.5-moe-a2.7b", "--device", "jetson-agx-orin-64gb", "--strict"]
    everything = estimated(*words, "--hit-rate", "1")
    assert everything.exit_code == 0, everything.output
    assert "does not fit" not in everything.stderr
    assert json.loads(everything.stdout)["fits"] is True
    assert json.loads(everything.stdout)["missing_bytes"] == 0
    some = json.loads(estimated(*words, "--hit-rate", "0.5").stdout)
    assert some["fits"] is some["missing_bytes"] is None


def test_experts_have_to_fit_in_the_host():
    words = ["--model", "deepseek-v3", "--device", "rtx-pro-6000", "--hit-rate", "0"]
    assert json.loads(estimated(*words, "--host", "epyc-7532").stdout)["fits"] is True
    short = estimated(*words, "--host", "laptop-ddr4")
    host, model = (
        remoe_sim.machine("rtx-pro-6000", host="laptop-ddr4").host_card,
        remoe_sim.model("deepseek-v3", "q4_k_m"),
    )
    assert json.loads(short.stdout)["missing_bytes"] == model.routed_bytes - room(host)
    assert "host laptop-ddr4 has " in short.stderr
    from_storage = estimated(*words, "--host", "laptop-ddr4", "--misses-from", "storage")
    assert json.loads(from_storage.stdout)["fits"] is True


def test_the_system_keeps_its_part():
    device = remoe_sim.device("jetson-orin-nano-8gb")
    kept = device.changed({"system_bytes": Fact(2**31, "measured", "free -b")})
    assert room(kept) == device.usable_bytes - 2**31
    assert room(device) == device.usable_bytes - device.system_bytes
    host = remoe_sim.machine("rtx-4090").host_card
    assert room(host) == (host.usable_bytes or host.memory_bytes) - host.system_bytes


def test_cards_say_how_much_the_system_keeps_where_the_driver_does_not():
    """Metal and drivers of cards in a slot report what is left; elsewhere the system lives in the same memory."""
    for name in card_names("device"):
        one = remoe_sim.device(name)
        assert (one.system_bytes is not None) == (one.unified and one.kind != "metal"), name


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        ({"experts_per_layer": 3}, 3 * 30),
        ({"experts_per_layer": 99}, 4 * 30),
        ({"bytes": 50}, 50),
        ({"bytes": 500}, 4 * 30),
        ({"experts": 8}, 4 * 30),
        ({"experts": 3}, None),
    ],
)
def test_the_bytes_of_a_cache(capacity, expected):
    class Model:
        experts, expert_bytes = 4, (10, 20)

    assert cache_bytes(Model, capacity) == expected


def test_a_cache_of_a_byte_more_than_there_is_room_does_not_fit():
    device = remoe_sim.machine("jetson-orin-nano-8gb")
    model = remoe_sim.model("deepseek-v2-lite", "q4_k_m")
    left = room(device) - 10**9
    assert fit_of(device, model, 10**9, left, "storage").to_dict() == {
        "fits": True, "missing_bytes": 0, "room_bytes": left,
    }  # fmt: skip
    assert fit_of(device, model, 10**9, left + 1, "storage").missing_bytes == 1
    assert fit_of(device, model, 10**9, None, "storage").fits is None
    # one memory for both: where the CPU computes experts, all of them are there
    assert fit_of(device, model, 10**9, 0, "cpu").missing_bytes == max(model.routed_bytes - left, 0)


def test_what_device_and_host_lack_is_added():
    device = remoe_sim.machine("rtx-4090")
    own, beneath = room(device), room(device.host_card)
    fit = fit_of_tiers(device, own, 5, beneath + 7)
    assert fit.missing_bytes == 12
    assert fit.note.count("; ") == 1
    assert fit_of_tiers(device, 0, 0, None).fits is None
    assert fit_of_tiers(device, 0, 0, 0).fits is True


@pytest.fixture
def small(tmp_path):
    """The card of a device with 20 MiB, of which the system keeps 1."""
    sizes = {"usable_bytes": 20 * MIB, "system_bytes": MIB}
    facts = {name: Fact(size, "measured", "a test") for name, size in sizes.items()}
    path = tmp_path / "small.toml"
    remoe_sim.device("jetson-orin-nano-8gb").changed(facts, name="small").to_toml(path)
    return str(path)


def replayed(*words):
    return run("replay", SAMPLE, "--policy", "lru,fifo", "--json", *words)


def test_a_replay_holds_its_cache_against_the_device(small):
    assert "fits" not in json.loads(replayed("--cache", "8").stdout)["results"][0]
    timed = remoe_sim.replay(SAMPLE, cache=8, policy="lru", device=small)["lru"].timed
    kept = sum(timed.model.resident_bytes) + timed.model.head_bytes
    assert timed.beside == kept + (0 if timed.model.tied_embeddings else timed.model.embedding_bytes)  # no KV is known
    each = sum(timed.model.expert_bytes)
    most = (19 * MIB - timed.beside) // each
    assert 0 < most < 32
    fitting = replayed("--device", small, "--cache", str(most), "--strict")
    assert fitting.exit_code == 0, fitting.output
    assert json.loads(fitting.stdout)["results"][0]["fits"] is True
    short = replayed("--device", small, "--cache", str(most + 1))
    assert short.exit_code == 0
    for one in json.loads(short.stdout)["results"]:
        assert one["fits"] is False
        assert one["room_bytes"] == 19 * MIB - timed.beside
        assert one["missing_bytes"] == (most + 1) * each - one["room_bytes"]
    assert short.stderr.count("it does not fit: device small has 19.0 MiB and needs ") == 1
    assert replayed("--device", small, "--cache", str(most + 1), "--strict").exit_code == 3


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["batches", "--batch", "1,2", "--policy", "lru"], lambda answer: answer["batches"][0]["results"][0]),
        (["prefetch", "--predictor", "previous"], lambda answer: answer["results"][0]["times"]),
        (["verdict", "--policy", "lru"], lambda answer: answer["on_device"]),
    ],
)
def test_other_commands_say_too_what_does_not_fit(words, found, small):
    command, *options = words
    most = 4
    fitting = run(command, SAMPLE, *options, "--device", small, "--cache", str(most), "--strict", "--json")
    assert fitting.exit_code == 0, fitting.output
    assert found(json.loads(fitting.stdout))["fits"] is True
    short = run(command, SAMPLE, *options, "--device", small, "--cache", "32", "--strict", "--json")
    assert short.exit_code == 3
    assert found(json.loads(short.stdout))["missing_bytes"] > 0
    assert short.stderr.count("it does not fit: device small has 19.0 MiB and needs ") == 1


def test_the_requests_of_the_largest_step_are_counted():
    words = {"cache": 8, "policy": "lru", "device": "jetson-orin-nano-8gb"}
    trace = remoe_sim.read_trace(SAMPLE)
    one = remoe_sim.replay(trace, **words)["lru"].timed
    assert one.requests == 1
    batched = remoe_sim.replay(remoe_sim.batch(trace, 4), **words)["lru"].timed
    assert batched.requests == 4


def test_plan_leaves_the_system_its_part(small):
    words = ["plan", SAMPLE, "--policy", "lru", "--json"]
    answer = run(*words, "--device", small, "--strict")
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)["results"][0]
    assert result["memory_bytes"] == 19 * MIB
    assert result["memory"]["memory_bytes"] <= 19 * MIB
    assert (result["fits"], result["missing_bytes"]) == (True, 0)
    short = run(*words, "--device", small, "--memory", "2KiB")
    assert short.exit_code == 0
    result = json.loads(short.stdout)["results"][0]
    assert result["memory"] is None
    assert result["fits"] is False
    assert result["missing_bytes"] == result["no_cache"]["memory_bytes"] - 2048
    assert short.stderr.count("it does not fit: device small has ") == 1
    assert run(*words, "--device", small, "--memory", "2KiB", "--strict").exit_code == 3


def test_plan_takes_the_memory_that_the_system_leaves():
    device = remoe_sim.device("jetson-orin-nano-8gb")
    assert remoe_sim.plan(SAMPLE, device, policy="lru")[0].memory_bytes == room(device) < device.memory_bytes


def test_both_tiers_have_to_fit():
    words = {"device_cache": 8, "device": "rtx-4090", "host_scope": "layer"}
    one = remoe_sim.tiers(SAMPLE, host_cache=16, **words)[0]
    assert one.to_dict()["fits"] is True
    sizes = [one * 500_000 for one in one.timed.model.expert_bytes]
    large = remoe_sim.tiers(remoe_sim.read_trace(SAMPLE).with_sizes(sizes), host_cache=16, **words)[0]
    machine = large.timed.run.device
    missing = max(8 * sum(sizes) + large.timed.beside - room(machine), 0)
    missing += max(16 * sum(sizes) - room(machine.host_card), 0)
    assert large.fit.missing_bytes == missing > 0
    assert large.to_dict()["fits"] is False


def test_tiers_say_what_does_not_fit():
    words = ["tiers", SAMPLE, "--device-cache", "8", "--host-cache", "all", "--device", "rtx-4090", "--json"]
    fitting = run(*words, "--strict")
    assert fitting.exit_code == 0, fitting.output
    assert json.loads(fitting.stdout)["results"][0]["fits"] is True
    short = run(*words, "--expert-bytes", "20GiB")
    assert short.exit_code == 0, short.output
    assert json.loads(short.stdout)["results"][0]["fits"] is False
    assert short.stderr.count("it does not fit: device rtx-4090 has ") == 1
    assert run(*words, "--expert-bytes", "20GiB", "--strict").exit_code == 3
