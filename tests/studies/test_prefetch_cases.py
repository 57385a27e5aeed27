"""Prefetching worked out by hand, what its report names, what bad arguments say, and the command."""

import json
from dataclasses import replace

import pytest

import remoe_sim
from remoe_sim import Decisions, InMemory
from remoe_sim.studies.predictors import PREDICTORS
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.oracle import POLICIES
from tests.support.hierarchies import BOTH_SCOPES, printed, random_trace
from tests.support.strategies import Shape, trace_of


def single(experts, **arguments):
    """One layer, one expert per step, no top-k but what `guesses` says."""
    rows = [Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate(experts)]
    return remoe_sim.prefetch(trace_of(rows, Shape((4,), (1,), (10,))), **arguments)[0]


def test_a_wrong_guess_is_charged_by_hand():
    """0 is most frequent, so it is loaded once more after 2 has taken its place, and pushes out 1, which is next."""
    result = single((0, 0, 1, 2, 1), cache=2, predictor="frequent")
    assert (result.total.misses, result.without.total.misses) == (4, 3)
    total = result.total
    assert (total.named, total.right, total.resident, total.prefetched) == (4, 1, 3, 1)
    assert (total.useful, total.wrong, total.wasted) == (0, 1, 1)
    assert (total.demand_bytes, total.prefetch_bytes, total.total_bytes, total.wasted_bytes) == (40, 10, 50, 10)
    assert (result.evictions, result.evictions_by_prefetch) == (3, 1)


def test_a_guess_needs_room_beside_the_running_group_by_hand():
    assert single((0, 1, 0, 1), cache=1, predictor="oracle").total.room_refused == 3
    result = single((0, 1, 0, 1), cache=2, predictor="oracle")
    assert (result.total.misses, result.total.useful, result.total.resident) == (1, 1, 2)


def test_a_guess_may_be_used_later_than_meant_by_hand():
    """0 is loaded once more while 2 runs, for a step that wants 2 again, and is used in the next one."""
    result = single((0, 0, 1, 2, 2, 0), cache=2, predictor="frequent")
    total = result.total
    assert (total.misses, result.without.total.misses) == (3, 4)
    assert (total.named, total.right, total.resident, total.prefetched) == (5, 2, 4, 1)
    assert (total.useful, total.wrong, total.wasted) == (1, 1, 0)
    assert (total.hits_resident, total.hits_by_prefetch) == (2, 1)
    assert (result.evictions, result.evictions_by_prefetch) == (2, 1)


def test_guesses_for_the_first_layer_are_issued_in_the_step_before_by_hand():
    """Two layers share a cache of 3 in LRU order; the cap of one expert per step goes to what is issued first."""
    rows = [Row(0, i, i, DECODE, [[first], [second]]) for i, (first, second) in enumerate(((0, 0), (1, 1), (2, 2)))]
    trace = trace_of(rows, Shape((4, 4), (1, 1), (10, 10)))
    result = remoe_sim.prefetch(trace, 3, predictor="oracle", scope="global", cap=10)[0]
    # step 0: (0, 0) misses, (1, 0) is loaded and hits; (0, 1) for the next step is beyond the cap, misses, and so on
    assert [one.misses for one in result.layers.values()] == [3, 0]
    assert [one.prefetched for one in result.layers.values()] == [0, 3]
    assert [one.cap_refused for one in result.layers.values()] == [2, 0]
    deeper = remoe_sim.prefetch(trace, 4, predictor="oracle", scope="global", cap=10, depth=2)[0]
    # two layers ahead is the same layer of the next step: (0, 1) is loaded in step 0, (0, 2) in step 1
    assert [one.misses for one in deeper.layers.values()] == [1, 3]
    assert [one.cap_refused for one in deeper.layers.values()] == [0, 2]


@pytest.mark.parametrize("scope", BOTH_SCOPES)
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_look_up(scope, tokens):
    shape = Shape((4, 3), (2, 1), (5, 7))
    trace = trace_of([Row(0, i, i, DECODE, [None, [None]]) for i in range(tokens)], shape)
    arguments = {"recall": 1, "precision": 0.5, "train_share": 0.5, "scope": scope}
    foreseen = [[Decisions(trace.decisions(1).experts, trace.decisions(1).valid), None]]
    trace = replace(trace, source=InMemory(trace.source.layers, all_ahead=foreseen))
    for result in remoe_sim.prefetch(trace, 2, predictor=tuple(PREDICTORS), policy=POLICIES, **arguments):
        assert (result.total.lookups, result.total.named, result.total.total_bytes, result.evictions) == (0, 0, 0, 0)
        assert result.total.hit_rate is result.total.recall is result.total.precision is None


def test_what_is_named_in_the_result():
    trace = random_trace()
    report = remoe_sim.prefetch(trace, 4, predictor="previous,oracle", policy="lru,fifo", cap="9B")
    assert [(one.predictor, one.policy) for one in report] == [
        ("previous", "lru"), ("previous", "fifo"), ("oracle", "lru"), ("oracle", "fifo"),
    ]  # fmt: skip
    answer = json.loads(json.dumps(report.to_dict()))
    assert answer["schema"] == "remoe-sim.prefetch.v1"
    one = answer["results"][2]
    assert (one["depth"], one["cap_bytes"], one["capacity"]) == (1, 9, {"experts_per_layer": 4})
    for name in ("lookups", "hits", "named", "useful", "wrong", "cap_refused", "wasted_bytes", "total_bytes"):
        assert one[name] == one["prefill"][name] + one["decode"][name] == sum(layer[name] for layer in one["layers"])
    alone = remoe_sim.replay(trace, 4, policy="lru")["lru"]
    assert one["without_prefetch"]["misses"] == alone.misses
    assert one["without_prefetch"]["decode"]["demand_bytes"] == alone.decode.bytes_read
    frame, layers = report.to_frame(), report.layer_frame()
    assert frame["decode_hits"].tolist() == [result.decode.hits for result in report]
    assert layers.groupby(["predictor", "policy"])["hits"].sum()["oracle", "lru"] == one["hits"]
    assert "<td>fifo</td>" in report._repr_html_()


def test_the_first_share_is_only_learned_from():
    trace = random_trace(tokens=40)
    whole, half = (remoe_sim.prefetch(trace, 4, predictor="frequent", train_share=share)[0] for share in (None, 0.5))
    assert (whole.total.tokens, half.total.tokens) == (40, 20)
    assert half.total.named == 2 * 3 * 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"predictor": "oracel"}, "unknown predictor 'oracel'; did you mean 'oracle'"),
        ({"predictor": "oracle,oracle"}, "names one twice"),
        ({"predictor": "transition"}, "give --train other.parquet, or --train-share 0.5"),
        ({"predictor": "noisy"}, "takes --recall and --precision"),
        ({"predictor": "noisy", "recall": 1}, "takes --recall and --precision"),
        ({"recall": 1, "precision": 1}, "takes --recall and --precision"),
        ({"predictor": "noisy", "recall": 1.1, "precision": 1}, "recall '1.1' is not possible"),
        ({"predictor": "noisy", "recall": 1, "precision": 0}, "precision 0 is not possible"),
        ({"depth": 0}, "depth 0 is not possible; give 1 to 3"),
        ({"depth": 4}, "depth 4 is not possible"),
        ({"guesses": -1}, "guesses '-1' is not possible"),
        ({"predictor": []}, "names one twice or none"),
        ({"seed": 3}, "seed 3 changes nothing without chance; give it with predictor noisy"),
        ({"train_share": 0}, "train share 0 of .* steps learns from no step; give a share such as 0.5"),
        ({"train_share": 1}, "train share 1 of .* steps leaves no step to count"),
        ({"predictor": "oracle", "train": random_trace()}, "to learn from changes nothing here"),
        ({"train_share": 2}, "train share '2' is not possible"),
        ({"train_share": 0.5, "train": random_trace()}, "give one of them"),
        ({"train": random_trace(2)}, "take a trace of the same model"),
        ({"policy": "static-oracle", "admission": "bypass"}, "policy 'static-oracle' has a replay of its own"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says):
        remoe_sim.prefetch(random_trace(), 2, **arguments)


def test_sizes_are_needed_for_a_cap_only():
    trace = trace_of([Row(0, i, i, DECODE, [[i]]) for i in range(3)], Shape((4,), (1,), None))
    assert remoe_sim.prefetch(trace, 2)[0].total.total_bytes is None
    with pytest.raises(remoe_sim.TraceError, match="a byte cap needs them"):
        remoe_sim.prefetch(trace, 2, cap=1)
    assert remoe_sim.prefetch(trace, 2, cap=1, expert_bytes=1, predictor="oracle")[0].total.prefetch_bytes == 2


def test_the_command(tmp_path):
    trace = tmp_path / "trace.parquet"
    remoe_sim.write_trace(random_trace(), trace)
    arguments = ["prefetch", trace, "--cache", "4", "--predictor", "transition,noisy", "--train-share", "0.5"]
    arguments += ["--recall", "0.8", "--precision", "0.6", "--cap", "9B", "--policy", "lru,lfu-forget"]
    shown = printed(*arguments, "--layers")
    assert "prefetch: 1 layer ahead, at most 9 B per step" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    noise = {"recall": 0.8, "precision": 0.6, "train_share": 0.5, "cap": "9B"}
    report = remoe_sim.prefetch(trace, 4, predictor="transition,noisy", policy="lru,lfu-forget", **noise)
    assert json.loads(printed(*arguments, "--json")) == report.to_dict()


def decode_and_prefill():
    """Eight prefill tokens that need six experts, and two decode tokens that need another one each, of 2 MiB each."""
    shape = Shape((8,), (1,), (2 * 2**20,))
    rows = [Row(0, at, 0, PREFILL, [[at % 6]]) for at in range(8)]
    rows += [Row(0, 8, 1, DECODE, [[6]]), Row(0, 9, 2, DECODE, [[7]])]
    return rows, shape


def shown(path, *options):
    """The numbers per token that `prefetch` shows, by heading and predictor."""
    tables, heading = {}, ""
    output = printed("prefetch", path, "--cache", 8, "--predictor", "previous,oracle", *options)
    for line in output.splitlines():
        if "/token" in line:
            heading = line.split("/token")[0]
            tables.setdefault(heading, [])
        elif heading and line.startswith(("previous", "oracle")):
            tables[heading].append([*map(float, line.split()[2:])])
        elif not line.strip():
            heading = ""
    return tables


def test_bytes_per_token_are_those_of_decode(tmp_path):
    rows, shape = decode_and_prefill()
    trace, path = trace_of(rows, shape), str(tmp_path / "trace.parquet")
    remoe_sim.write_trace(trace, path)
    read, loaded = [[2.0, 2.0, 0.0, 2.0], [2.0, 0.0, 2.0, 2.0]], [[0.0] * 4, [2.0, 0.0, 0.0, 0.0]]
    assert shown(path) == {"decode MiB": [*read, *loaded]}
    report = remoe_sim.prefetch(trace, 8, predictor="previous,oracle")
    replayed = remoe_sim.replay(trace, 8, policy="lru")["lru"]
    for one in report.to_dict()["results"]:
        assert one["bytes_read_per_token"] == one["decode"]["total_bytes"] / 2 == 2 * 2**20
        assert one["without_prefetch"]["bytes_read_per_token"] == replayed.bytes_read_per_token == 2 * 2**20
    frame = report.to_frame()
    assert frame["bytes_read_per_token"].tolist() == [2 * 2**20] * 2


def test_bytes_per_token_without_decode_tokens_are_those_of_prefill(tmp_path):
    path = str(tmp_path / "trace.parquet")
    remoe_sim.write_trace(trace_of(*decode_and_prefill()), path)
    assert shown(path, "--phase", "prefill")["prefill MiB"][0] == [1.5, 1.5, 0.0, 1.5]
    one = remoe_sim.prefetch(path, 8, predictor="previous", phase="prefill").to_dict()["results"][0]
    assert one["bytes_read_per_token"] is None


def test_experts_per_token_are_those_of_decode_where_sizes_are_unknown(tmp_path):
    rows, shape = decode_and_prefill()
    path = str(tmp_path / "trace.parquet")
    remoe_sim.write_trace(trace_of(rows, Shape(shape.experts, shape.top_k, None)), path)
    assert shown(path)["decode experts"][0] == [1.0, 1.0, 0.0, 1.0]
