"""What bad arguments get: one sentence that says what to do, as an exception or on stderr with exit code 2."""

import re
import sys

import pytest

import remoe_sim
import remoe_sim.cache.replay  # loads the kernels, so that no test sees the message that they are being compiled
from remoe_sim import cli
from tests.oracle.naive import DECODE, Row
from tests.support.strategies import Shape, trace_of

ROWS = [Row(0, i, i, DECODE, [[i, 3], [0]]) for i in range(3)]
MIXED = [Row(request, i, i, DECODE, [[1, 2], [0]]) for i, request in enumerate((0, 1, 0))]
TOGETHER = [Row(request, i, 0, DECODE, [[1, 2], [0]]) for i, request in enumerate((0, 1))]
SHAPE = Shape((5, 4), (2, 1), (10, 20))
TRACES = {
    "trace": trace_of(ROWS, SHAPE),
    "unsized": trace_of(ROWS, Shape((5, 4), (2, 1), None)),
    "mixed": trace_of(MIXED, SHAPE),
    "together": trace_of(TOGETHER, SHAPE),
    "other": trace_of(ROWS, Shape((6, 4), (2, 1), None)),
    "shallow": trace_of([Row(0, 0, 0, DECODE, [[1, 2]])], Shape((5,), (2,), None)),
}
NAMES = "valid are .*belady, .*fifo, .*lfu-forget, .*lru"
BOTH = [  # of replay and of curve
    ("trace", {"policy": "lur"}, f"unknown policy 'lur'; did you mean 'lru'\\? {NAMES}"),
    ("trace", {"policy": "belady,nonsense"}, f"unknown policy 'nonsense'; {NAMES}"),
    ("trace", {"policy": ""}, f"unknown policy ''; {NAMES}"),
    ("trace", {"policy": "lru,fifo,lru"}, "policy 'lru,fifo,lru' names a policy twice .*; name each once"),
    ("trace", {"scope": "layers"}, "unknown scope 'layers'; did you mean 'layer'\\? valid are global, layer"),
    ("trace", {"admission": "free"}, "unknown admission 'free'; valid are bypass, mandatory"),
    ("trace", {"order": "random"}, "unknown order 'random'; valid are sequential, set"),
    ("trace", {"reset": "always"}, "unknown reset 'always'; valid are never, request"),
    ("trace", {"phase": "both"}, "unknown phase 'both'; valid are all, decode, prefill"),
    ("trace", {"warmup": "-1"}, "warmup '-1' is not possible; give a whole number that is 0 or more"),
    ("trace", {"warmup": "many"}, "warmup 'many' is not possible; give a whole number that is 0 or more"),
    ("trace", {"expert_bytes": "-3"}, "'-3' is not a size; give a number of bytes or one with a unit"),
    ("trace", {"expert_bytes": "3 parsecs"}, "'3 parsecs' is not a size; give a number of bytes"),
    ("trace", {"expert_bytes": "0"}, "model.expert_bytes holds a value below 1"),
    ("trace", {"expert_bytes": "4TiB"}, "model.expert_bytes holds a value above 1099511627776"),
    ("trace", {"expert_bytes": "5B,6B,7B"}, "model.expert_bytes has 3 entries for 2 MoE layers"),
    ("trace", {"preload": "other"}, "experts per layer differ from those of .*; take a trace of the same model"),
    ("trace", {"preload": "shallow"}, "MoE layers differ from those of .*; take a trace of the same model"),
    ("mixed", {"reset": "request"}, "the rows of a request are not together; use --reset never"),
    ("together", {"reset": "request"}, "a step holds tokens of two requests; use --reset never"),
    ("trace", {"cache": "-1"}, "cache '-1' is not possible; give a whole number that is 0 or more"),
    ("trace", {"cache": "2.5"}, "cache '2.5' is not possible; give a whole number that is 0 or more"),
    ("trace", {"cache": "9" * 19}, "cache '9+' is not possible; give a whole number of at most 18 digits"),
    ("trace", {"budget": "-5MiB", "scope": "global"}, "'-5MiB' is not a size; give a number of bytes"),
    ("trace", {"budget": "5 MB extra", "scope": "global"}, "'5 MB extra' is not a size"),
    ("trace", {"budget": "9999999TiB", "scope": "global"}, "'9999999TiB' is too large a size; at most"),
    ("unsized", {"budget": "5MiB", "scope": "global"}, "sizes are unknown and a byte budget needs them; pass --expert"),
    ("trace", {"budget": "5MiB", "cache": "2", "scope": "global"}, "cache and budget given"),
]
REPLAY = [
    ("trace", {}, "no limit given; limit the cache by one of --cache EXPERTS, --budget BYTES"),
    ("unsized", {"budget": "5MiB"}, "sizes are unknown and a byte budget needs them; pass --expert-bytes"),
    ("trace", {"budget": "5", "memory": "9B"}, "budget and memory given; limit the cache by one of"),
    ("trace", {"memory": "9B"}, "memory is not for experts alone; say with --reserve what"),
    ("trace", {"memory": "9B", "reserve": "1KiB"}, "1.0 KiB are reserved of a memory of 9 B, which leaves nothing"),
    ("trace", {"memory": "9KiB", "reserve": "dense"}, "size of its dense layers is unknown; give --reserve a size"),
    ("trace", {"reserve": "1KiB"}, "reserve goes with --memory"),
    ("trace", {"pin": "3"}, "pin '3' is not possible; give LAYER:EXPERT"),
    ("trace", {"pin": "the first"}, "pin 'the first' is not possible; give LAYER:EXPERT"),
    ("trace", {"pin": "2:0"}, "pin 2:0: no MoE layer 2; there are MoE layers from 1 to 3"),
    ("trace", {"pin": "3:4"}, "pin 3:4: no expert 4; layer 3 has experts 0 to 3"),
    ("trace", {"pin": "1:0,1:1,1:2"}, "the pinned experts take 3 experts of a cache of 2; pin fewer or raise the"),
    ("trace", {"policy": "lru:size=3"}, "unknown option of policy 'lru' 'size'"),
    ("trace", {"policy": "./none.py"}, "policy './none.py': there is no such file; give the path of a Python file"),
]
CURVE = [
    ("trace", {"cache": "5:2"}, "cache '5:2' is not a range; give a:b or a:b:step"),
    ("trace", {"cache": ""}, "cache '' is not possible"),
    ("trace", {"cache": "1:99999999999"}, "cache '1:99999999999' is 99999999999 numbers; give a range of at most"),
    ("trace", {"budget": "5MiB"}, "budget is a limit of scope global; .* or scope='global'"),
    ("trace", {"budget": "all", "scope": "global", "policy": "fifo"}, "policy 'fifo' needs a pass per budget here"),
    ("trace", {"budget": "all", "scope": "global", "policy": "lfu"}, "policy 'lfu' needs a pass per budget here; give"),
]
CASES = [("replay", *case) for case in BOTH + REPLAY] + [("curve", *case) for case in BOTH + CURVE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the traces are files; no test may write anything there."""
    folder = tmp_path_factory.mktemp("traces")
    for name, trace in TRACES.items():
        remoe_sim.write_trace(trace, folder / f"{name}.parquet")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capfd):
    """`remoe-sim` with some arguments: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["remoe-sim", *arguments])
        before = sorted(folder.iterdir())
        with pytest.raises(SystemExit) as stop:
            cli.run()
        assert sorted(folder.iterdir()) == before
        return stop.value.code, *capfd.readouterr()

    return run


def refused(outcome):
    """The one sentence of a command that was refused."""
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert err.startswith("remoe-sim: ")
    assert err.count("\n") == 1
    return err


def limited(function, arguments):
    """The arguments with a limit, where replay needs one and the case is about something else."""
    given = arguments.keys() & {"cache", "budget", "memory"} or not arguments
    return arguments if given or function == "curve" else {**arguments, "cache": "2"}


@pytest.mark.parametrize(("function", "name", "arguments", "sentence"), CASES)
def test_in_python(function, name, arguments, sentence, folder, monkeypatch):
    monkeypatch.chdir(folder)
    given = limited(function, arguments)
    if "preload" in given:
        given = given | {"preload": TRACES[given["preload"]]}
    with pytest.raises(ValueError, match=sentence) as error:
        getattr(remoe_sim, function)(TRACES[name], **given)
    assert "\n" not in str(error.value)
    about_data = name != "trace" or re.search("model.expert_bytes|same model|dense layers", sentence)
    assert isinstance(error.value, remoe_sim.TraceError) == bool(about_data)


@pytest.mark.parametrize(("function", "name", "arguments", "sentence"), CASES)
def test_on_the_command_line(function, name, arguments, sentence, run):
    pairs = limited(function, arguments).items()
    files = {key: f"{value}.parquet" if key == "preload" else value for key, value in pairs}
    options = [text for key, value in files.items() for text in (f"--{key.replace('_', '-')}", value)]
    said = refused(run(function, f"{name}.parquet", *options))
    assert re.search(sentence, said), said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["replay"], "Missing argument 'TRACE' (see 'remoe-sim replay --help')"),
        (["replay", "trace.parquet", "--polcy", "lru"], "--polcy"),
        (["replay", "trace.parquet", "--cache"], "'--cache' requires an argument"),
        (["reply", "trace.parquet"], "unknown command 'reply'; did you mean 'replay'?"),
        (["replay", "nowhere.parquet", "--cache", "2"], "nowhere.parquet: there is no such file"),
        (["curve", "nowhere.parquet"], "nowhere.parquet: there is no such file"),
        (["replay", "trace.parquet", "--cache", "2", "--preload", "nowhere.parquet"], "nowhere.parquet: there is no"),
    ],
)
def test_bad_usage(arguments, sentence, run):
    assert sentence in refused(run(*arguments))


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("curve.xlsx", "'curve.xlsx' has no known suffix; write a curve to a .csv, .parquet or .json file"),
        ("curve", "'curve' has no known suffix"),
        ("no/such/folder/curve.csv", "no/such/folder"),
        ("trace.parquet/curve.json", "trace.parquet"),
    ],
)
def test_an_output_that_cannot_be_written(output, sentence, run):
    assert sentence in refused(run("curve", "trace.parquet", "-o", output))


def test_a_folder_in_the_way(run, folder):
    (folder / "taken.csv").mkdir(exist_ok=True)
    assert "taken.csv" in refused(run("curve", "trace.parquet", "-o", "taken.csv"))
