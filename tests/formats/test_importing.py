"""How a file finds its format, what may be said of a model, and how a format is added."""

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import remoe_sim.traces

from remoe_sim import TraceError, import_trace
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.source import Source
from remoe_sim.util.plugins import plugins
from tests.support.imported import refused, rows_of
from tests.support.plain_files import LONG, ROWS, long_csv, objects, write_csv, write_jsonl


def test_a_file_of_no_format_lists_them_and_says_what_might_do(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("request,when,phase,moe_block,chosen_ones\n0,0,decode,1,3\n")
    sentence = refused(path, "bigmoe, .*csv, .*jsonl, .*npz", "its columns are request, when, phase, moe_block, chosen")
    assert "import --help" in sentence
    assert "--columns" not in sentence  # nothing looks like an expert
    path.write_text("request,when,phase,moe_block,router_topk_list\n0,0,decode,1,3\n")
    refused(path, "--columns layer=moe_block,experts=router_topk_list might do")
    path.write_text('{"request": 0, "token": 0, "phase": "decode", "experts": [3]}\n')
    refused(path, "its keys are request, token, phase, experts", "nearest layouts are jsonl .without layer, position")
    path.write_text('{"request": 0, "posi')
    assert "nearest" not in refused(path, "its keys are request;")
    path.write_text("0,0,3,7\n0,1,4,9\n")
    refused(path, "4 columns without names; --columns position,layer,e0,e1 might do")
    path.write_bytes(b'"\r,' * 9)
    refused(path, "none of the known formats")
    path.write_bytes(bytes(range(256)) * 9)
    assert "nearest" not in refused(path, "none of the known formats")
    np.savez(tmp_path / "t.npz", other=[1])
    refused(tmp_path / "t.npz", "its arrays are other;")
    (tmp_path / "t.pt").write_bytes(b"PK\x03\x04 cut off")
    refused(tmp_path / "t.pt", "damaged or truncated archive")


@pytest.mark.parametrize("text", ['{"logical_count": [[46, 18], [12, 29]]}', "layer,counts\n0,5\n"])
def test_sums_of_uses_cannot_be_replayed(tmp_path, text):
    path = tmp_path / "t.json"
    path.write_text(text)
    assert "nearest" not in refused(
        path, "holds sums of uses, which have no order.*record which experts each token chose"
    )


def test_a_refusal_shows_a_file_that_is_read(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(TraceError) as caught:
        import_trace(path)
    recipe = caught.value.__notes__[0].splitlines()
    assert len(recipe) == 1 + 6
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in recipe[1:]), {})
    trace = import_trace("recording.npz")
    assert (trace.tokens, trace.model.top_k, trace.model.experts) == (2, (2, 2), (16, 16))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the size of the process as Linux tells it")
def test_a_broken_file_leaves_nothing_in_memory(tmp_path):
    path = tmp_path / "t.csv.zst"
    path.write_bytes(pa.compress(b"request,position\n" * 99, "zstd", asbytes=True)[:5] + bytes(99))

    def pages():
        return int(Path("/proc/self/statm").read_text().split()[0])

    refused(path, "truncated|damaged")
    before = pages()
    for _ in range(400):
        with pytest.raises(TraceError):
            import_trace(path)
    assert (pages() - before) * os.sysconf("SC_PAGE_SIZE") < 16 * 2**20  # 400 times what a read is given are 50 MiB


def test_a_file_that_cannot_be_read(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.touch()
    refused(empty, "empty")
    empty.write_bytes(gzip.compress(b""))
    refused(empty, "empty")
    refused(tmp_path / "missing.csv", "no such file")
    refused(tmp_path, "none of the known formats")
    if os.geteuid():
        empty.chmod(0)
        refused(empty, "may not be read")
    refused(tmp_path, "this is a directory", format="csv")
    refused(write_csv(tmp_path, LONG, long_csv()) / "inside", "cannot be read|no such file")


def test_an_unknown_format_lists_the_valid_ones(tmp_path):
    with pytest.raises(ValueError, match=r"unknown trace format 'cvs'; did you mean 'csv'\? valid are bigmoe, "):
        import_trace(write_csv(tmp_path, LONG, long_csv()), format="cvs")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"experts": 0}, "experts 0 is not possible"),
        ({"experts": -3}, "experts -3 is not possible"),
        ({"experts": 65537}, "65537 experts are more than the 65536"),
        ({"expert_bytes": "3 apples"}, "'3 apples' is not a size"),
        ({"expert_bytes": "-3"}, "'-3' is not a size"),
        ({"expert_bytes": 0}, "holds no size above 0"),
        ({"expert_bytes": []}, "holds no size above 0"),
        ({"dense_bytes": "1B,0B"}, "holds no size above 0"),
        ({"dense_bytes": [1, 2]}, "dense_bytes has 2 sizes for 5 layers"),
    ],
)
def test_impossible_arguments(tmp_path, options, part):
    with pytest.raises(ValueError, match=part):
        import_trace(write_csv(tmp_path, LONG, long_csv()), **options)


def test_the_content_decides_not_the_name(tmp_path):
    path = write_jsonl(tmp_path, objects(), "t.csv")
    assert import_trace(path).origin["format"] == "jsonl"


def test_a_file_name_without_its_compression(tmp_path):
    names = {"t.json.gz": "t.json", "t.CSV.ZST": "t.CSV", "t.npz": "t.npz"}
    assert {name: Source(tmp_path / name).file_name for name in names} == names


def test_members_of_a_directory(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.parquet").touch()
    (tmp_path / "a.json").touch()
    source = Source(tmp_path)
    with pytest.raises(TraceError, match="this is a directory"), source.open():
        pass
    assert (source.members, source.shape, source.sha256()) == (("a.json", "b/c.parquet"), "directory", None)


@pytest.fixture
def one_more_format(tmp_path, monkeypatch):
    """A function that adds a format by adding one file to the package."""
    folder = tmp_path / "more"
    folder.mkdir()
    monkeypatch.setattr(remoe_sim.traces, "__path__", [*remoe_sim.traces.__path__, str(folder)])
    plugins.cache_clear()

    def add(body):
        text = "from remoe_sim.importing import TraceFormat, import_trace\n\n\nclass Added(TraceFormat):\n"
        (folder / "added.py").write_text(text + body)

    yield add
    plugins.cache_clear()
    sys.modules.pop("remoe_sim.traces.added", None)


def test_a_format_is_one_file(tmp_path, one_more_format):
    one_more_format(
        "    name = 'added'\n"
        "    directories = True\n"
        "    def recognises(self, source): return 'here.csv' in source.members\n"
        "    def read(self, source): return import_trace(source.path / 'here.csv')\n"
    )
    (tmp_path / "capture").mkdir()
    write_csv(tmp_path / "capture", LONG, long_csv(), "here.csv")
    trace = import_trace(tmp_path / "capture", name="mine")
    assert rows_of(trace) == ROWS
    assert trace.origin == {"format": "added", "path": "capture", "sha256": None}
    assert trace.model.name == "mine"


def test_a_file_of_two_formats_is_not_guessed(tmp_path, one_more_format):
    one_more_format("    name = 'added'\n    general = True\n    def recognises(self, source): return True\n")
    path = write_csv(tmp_path, LONG, long_csv())
    refused(path, "fits the formats added and csv; choose one with --format")
    assert rows_of(import_trace(path, format="csv")) == ROWS
    with pytest.raises(NotImplementedError, match=r"'added' must define read\(source\)"):
        import_trace(path, format="added")


def test_a_format_without_recognition(tmp_path, one_more_format):
    one_more_format("    name = 'added'\n")
    with pytest.raises(NotImplementedError, match=r"'added' must define recognises\(source\)"):
        import_trace(write_csv(tmp_path, LONG, long_csv()))


def test_every_format_describes_itself():
    for name, plugin in plugins("remoe_sim.traces", TraceFormat).items():
        assert plugin.name == name
        assert plugin.summary
        assert plugin.words
        assert plugin.shape in ("directory", "zip", "json", "text", "binary")
