"""`remoe-sim import` and `remoe-sim list` as a user types them."""

import json
import subprocess
import sys

import pytest

from remoe_sim import cli, import_trace, read_trace
from tests.support.bigmoe import capture
from tests.support.data import SHARED, needs_traces
from tests.support.imported import rows_of
from tests.support.plain_files import LONG, ROWS, long_csv, write_csv


@pytest.fixture
def remoe_sim(monkeypatch, capsys):
    """Run a command line; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["remoe-sim", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.run()
        captured = capsys.readouterr()
        return done.value.code or 0, captured.out, captured.err

    return run


def sentence(err):
    """The one line on stderr, without the name of the program."""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.removeprefix("remoe-sim: ").strip()


def test_one_line_says_what_was_written(tmp_path, remoe_sim):
    path, out = capture(tmp_path), tmp_path / "t.parquet"
    code, text, err = remoe_sim("import", path, "-o", out)
    assert code == 0
    assert text == (
        f"wrote {out}: 4 tokens (3 prefill, 1 decode), 2 requests, 2 MoE layers, 8 experts, top-2, "
        "experts of 1,000 B to 2.0 KiB\n"
    )
    assert sentence(err).startswith("assumed: the prompt of each turn is one prefill step")
    assert rows_of(read_trace(out)) == rows_of(import_trace(path))


def test_options_describe_the_model(tmp_path, remoe_sim):
    path, out = write_csv(tmp_path, LONG, long_csv()), tmp_path / "t.parquet"
    assert "expert sizes unknown (--expert-bytes)" in remoe_sim("import", path, "-o", out)[1]
    options = ["--format", "csv", "--experts", 64, "--expert-bytes", "3MiB", "--dense-bytes", "1kB", "--name", "m"]
    code, text, _ = remoe_sim("import", path, "-o", out, *options, "--quant", "q4")
    assert (code, "64 experts, top-2, experts of 3.0 MiB" in text) == (0, True)
    model = read_trace(out).model
    assert (model.name, model.quant, model.experts) == ("m", "q4", (64, 64))
    assert (model.expert_bytes, model.dense_bytes) == ((3 << 20,) * 2, (1000,) * 5)


def test_several_inputs(tmp_path, remoe_sim):
    path, out = write_csv(tmp_path, LONG, long_csv()), tmp_path / "t.parquet"
    code, text, _ = remoe_sim("import", path, path, "-o", out)
    assert (code, "12 tokens (6 prefill, 6 decode), 4 requests" in text) == (0, True)
    assert [row.decisions for row in rows_of(read_trace(out))] == [row.decisions for row in ROWS] * 2


@pytest.mark.parametrize("place", ["missing/t.parquet", "file/t.parquet", "folder"])
def test_an_output_that_cannot_be_written(tmp_path, remoe_sim, place):
    path = capture(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, text, err = remoe_sim("import", path, "-o", tmp_path / place)
    assert (code, text) == (2, "")
    assert f"'{tmp_path / place}' cannot be written" in sentence(err)
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_input_writes_nothing(tmp_path, remoe_sim):
    path, out = capture(tmp_path, rows="0,0,0\n"), tmp_path / "t.parquet"
    code, text, err = remoe_sim("import", path, "-o", out)
    assert (code, text) == (2, "")
    assert sentence(err).startswith(f"{path}: line 7: 3 cells")
    assert not out.exists()


def test_a_result_that_is_there_survives_a_failure(tmp_path, remoe_sim):
    out = tmp_path / "t.parquet"
    remoe_sim("import", capture(tmp_path), "-o", out)
    before = out.read_bytes()
    assert remoe_sim("import", capture(tmp_path, rows=""), "-o", out)[0] == 2
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-o", "t.parquet"], "Missing argument 'INPUT...'"),
        (["{path}"], "Missing option '-o'"),
        (["{path}", "-o", "{path}"], "is an input and would be overwritten"),
        (["{path}", "-o", "t.parquet", "--format", "cvs"], "unknown trace format 'cvs'; did you mean 'csv'?"),
        (["{path}", "-o", "t.parquet", "--experts", "many"], "'many' is not a valid integer"),
        (["{path}", "-o", "t.parquet", "--expert-bytes", "large"], "'large' is not a size"),
        (["{path}.gz", "-o", "t.parquet"], "there is no such file"),
    ],
)
def test_bad_usage(tmp_path, monkeypatch, remoe_sim, arguments, part):
    monkeypatch.chdir(tmp_path)
    path = capture(tmp_path)
    content = path.read_bytes()
    code, text, err = remoe_sim("import", *(one.format(path=path) for one in arguments))
    assert (code, text) == (2, "")
    assert part in sentence(err)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (content, [path])


def test_help_has_examples_and_the_layouts(remoe_sim):
    code, text, _ = remoe_sim("import", "--help")
    assert code == 0
    for part in (
        "remoe-sim import qwen.route.csv -o qwen.parquet",
        "    request,position,phase,layer,expert  ",
        '    {"request": 0, "position": 0, "phase": "prefill", "layer": 0, "experts": [17, 3]}',
        "experts: whole numbers [tokens, layers, k]",
        "    turn,phase,step,layer,slot,expert,weight,residency,expert_bytes[,dropped]",
    ):
        assert part in text


def test_list_formats(remoe_sim):
    code, text, _ = remoe_sim("list", "formats")
    assert code == 0
    assert "[tokens, layers, k]" in text
    code, text, _ = remoe_sim("list", "formats", "--json")
    listed = json.loads(text)
    assert (listed["schema"], listed["kind"]) == ("remoe-sim.list.v1", "formats")
    assert {"bigmoe", "csv", "jsonl", "npz", "sglang", "vllm"} <= {one["name"] for one in listed["items"]}
    assert all(one["summary"] for one in listed["items"])


def test_list_policies(remoe_sim):
    code, text, _ = remoe_sim("list", "policies", "--json")
    assert code == 0
    names = [one["name"] for one in json.loads(text)["items"]]
    assert {"lru", "lfu", "belady", "fifo", "lfu-forget"} <= set(names)
    assert all(one["summary"] and one["source"] for one in json.loads(text)["items"])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["polices"], "unknown kind 'polices'; did you mean 'policies'?"), ([], "Missing argument")],
)
def test_list_of_something_else(remoe_sim, arguments, part):
    code, text, err = remoe_sim("list", *arguments)
    assert (code, text) == (2, "")
    assert part in sentence(err)


@pytest.mark.parametrize("arguments", [["import", "--help"], ["list", "formats"]])
def test_help_and_lists_of_formats_load_nothing_heavy(arguments):
    script = (
        "import sys; from remoe_sim import cli\n"
        f"sys.argv = ['remoe-sim', *{arguments!r}]\n"
        "try: cli.run()\n"
        "finally: print([name for name in ('pandas', 'pyarrow', 'numba', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@needs_traces
def test_a_real_capture_as_a_process(tmp_path):
    command = [sys.executable, "-c", "from remoe_sim.cli import run; run()", "import"]
    command += [SHARED / "bigmoe" / "qwen.route.csv", "-o", tmp_path / "qwen.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "156 tokens (28 prefill, 128 decode), 1 request, 48 MoE layers, 128 experts, top-6" in done.stdout
    assert read_trace(tmp_path / "qwen.parquet").tokens == 156
