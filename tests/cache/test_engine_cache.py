"""`--engine` as the profile of a cache: what the card says, what the user overrides, what is not replayed."""

import json

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cache.settings import ALLOWED
from remoe_sim.cli import main
from remoe_sim.devices.engine import make_engine
from remoe_sim.policy.find import find_policy
from remoe_sim.util.cards import card_names

TRACE = "sample:qwen-original"


def run(*arguments):
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done


def fact(value):
    return {"value": value, "status": "assumed", "source": "here"}


@pytest.mark.parametrize("name", card_names("engine"))
def test_every_card_gives_settings_that_work(name):
    profile = remoe_sim.engine_cache(name)
    for setting, value in profile.settings.items():
        assert value in ALLOWED.get(setting, (value,))
    if profile.settings:
        assert profile.settings["admission"] in find_policy(profile.settings["policy"]).admissions
    assert all(one.startswith(f"engine {name}: ") for one in profile.notes)


def test_a_replay_as_an_engine_is_the_replay_with_its_settings():
    settings = remoe_sim.engine_cache("warp").settings
    assert settings == {"scope": "global", "policy": "lfru", "admission": "mandatory"}
    named = run("replay", TRACE, "--cache", 32, "--phase", "decode", "--engine", "warp", "--json")
    answer = json.loads(named.stdout)
    assert answer["results"] == remoe_sim.replay(TRACE, cache=32, phase="decode", **settings).to_dict()["results"]
    assert answer["engine_cache"] == {"engine": "warp", **settings, "overridden": [], "notes": []}


def test_what_the_user_gives_wins_and_is_said():
    done = run("replay", TRACE, "--cache", 8, "--engine", "warp", "--scope", "layer", "--policy", "lru,belady")
    assert done.stdout.startswith(
        "engine warp: scope layer, policy lru,belady, admission mandatory (scope and policy as given, not as the "
        "engine has it)\n"
    )
    plain = run("replay", TRACE, "--cache", 8, "--policy", "lru,belady")
    assert done.stdout.split("\n", 1)[1] == plain.stdout


def test_an_engine_without_a_cache_changes_nothing():
    done = run("replay", TRACE, "--cache", 8, "--policy", "lru", "--engine", "vllm")
    first, rest = done.stdout.split("\n", 1)
    assert first == "engine vllm has no cache of experts, so that settings are those given"
    assert rest == run("replay", TRACE, "--cache", 8, "--policy", "lru").stdout


def test_what_a_replay_does_not_do_of_it_is_said():
    notes = remoe_sim.engine_cache("llama.cpp-moe-cache").notes
    assert any("above 32 tokens a step" in one for one in notes)
    assert any("by tensor layout" in one for one in notes)
    assert any("caches by projection" in one for one in remoe_sim.engine_cache("imp").notes)
    assert any("only like lfu" in one for one in remoe_sim.engine_cache("moe-infinity").notes)


@pytest.mark.parametrize(
    "command",
    [
        ("curve", TRACE, "--cache", 8),
        ("sweep", TRACE, "--cache", 8),
        ("verdict", TRACE, "--cache", 8),
        ("batches", TRACE, "--batch", "1", "--cache", 8),
        ("plan", TRACE, "--device", "rtx-4090"),
        ("replay", TRACE, "--cache", 8, "--device", "rtx-4090"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_takes_the_profile(command):
    settings = remoe_sim.engine_cache("llama.cpp-moe-cache-lru").settings
    answer = json.loads(run(*command, "--engine", "llama.cpp-moe-cache-lru", "--phase", "decode", "--json").stdout)
    assert {name: answer["engine_cache"][name] for name in settings} == settings


def test_a_report_takes_the_profile(tmp_path):
    page = tmp_path / "page.html"
    done = run("report", TRACE, "--cache", 8, "--phase", "decode", "--engine", "colibri", "-o", page)
    assert "engine colibri: scope layer, policy lfru, admission mandatory" in done.stdout
    assert "lfru" in page.read_text()


def test_a_card_of_ones_own_and_what_it_may_say(tmp_path):
    card = tmp_path / "mine.toml"
    card.write_text(
        'title = "mine"\n[cache]\n'
        + "".join(
            f'{key} = {{ value = "{value}", status = "assumed", source = "here" }}\n'
            for key, value in {"scope": "global", "policy": "fifo"}.items()
        )
    )
    assert remoe_sim.engine_cache(card).settings == {"scope": "global", "policy": "fifo", "admission": "mandatory"}
    with pytest.raises(ValueError, match="scope is 'row'; give layer or global"):
        remoe_sim.engine_cache(make_engine("mine", {"title": "mine", "cache": {"scope": fact("row")}}))
