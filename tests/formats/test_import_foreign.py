"""What every importer of other people's formats must do, on a fixture of each."""

import gzip
import random

import pyarrow as pa
import pytest

from docs.site.formats import PAGE, in_page
from remoe_sim import TraceError, import_trace
from remoe_sim.formats.format import PACKAGE, TraceFormat, fitting_formats
from remoe_sim.formats.source import Source
from remoe_sim.util.plugins import plugins
from tests.support.bigmoe import capture
from tests.support.foreign_files import FOREIGN as OLDER
from tests.support.imported import assert_round_trip, rows_of
from tests.support.more_foreign import MORE
from tests.support.plain_files import written

FOREIGN = OLDER | MORE


@pytest.mark.parametrize("case", FOREIGN)
def test_every_format_becomes_the_trace_it_records(tmp_path, case):
    one = FOREIGN[case]
    trace = import_trace(one.write(tmp_path), **one.options)
    assert rows_of(trace) == one.rows
    assert trace.layer_numbers == one.layers
    assert trace.origin["format"] == one.format
    assert trace.notes
    assert_round_trip(trace, tmp_path)


def formats_that_fit(path):
    formats = [plugin() for plugin in plugins(PACKAGE, TraceFormat).values()]
    return [format.name for format in fitting_formats(Source(path), formats)]


@pytest.mark.parametrize("case", FOREIGN)
def test_only_one_format_recognises_a_file(tmp_path, case):
    path = FOREIGN[case].write(tmp_path)
    assert formats_that_fit(path) == [FOREIGN[case].format]


@pytest.mark.parametrize("form", ["long", "wide", "jsonl", "npz"])
def test_only_one_format_recognises_a_plain_file(tmp_path, form):
    assert formats_that_fit(written(tmp_path, form)) == [{"long": "csv", "wide": "csv"}.get(form, form)]


def test_only_one_format_recognises_a_capture(tmp_path):
    assert formats_that_fit(capture(tmp_path)) == ["bigmoe"]


def test_every_format_has_a_fixture():
    assert set(plugins(PACKAGE, TraceFormat)) == {one.format for one in FOREIGN.values()} | {
        "bigmoe", "csv", "jsonl", "npz", "tables",
    }  # fmt: skip


def test_the_table_of_the_docs_is_that_of_the_code():
    """`python -m docs.site.formats` writes it."""
    text = PAGE.read_text("utf-8")
    assert in_page(text) == text
    said = [(one.writer, one.kept, one.lost, one.sure) for one in plugins(PACKAGE, TraceFormat).values()]
    assert all(all(cells) for cells in said)
    assert len({one.sure for one in plugins(PACKAGE, TraceFormat).values()}) < 10


@pytest.mark.parametrize("case", FOREIGN)
def test_compressed_files_are_the_same(tmp_path, case):
    one = FOREIGN[case]
    path = one.write(tmp_path)
    if path.is_dir():
        return
    raw = path.read_bytes()
    (tmp_path / "t.gz").write_bytes(gzip.compress(raw))
    with pa.CompressedOutputStream(str(tmp_path / "t.zst"), "zstd") as stream:
        stream.write(raw)
    for name in ("t.gz", "t.zst"):
        assert rows_of(import_trace(tmp_path / name, **one.options)) == one.rows


@pytest.mark.parametrize("case", FOREIGN)
def test_two_of_them_join(tmp_path, case):
    one = FOREIGN[case]
    path = one.write(tmp_path)
    trace = import_trace([path, path], **one.options)
    assert [row.decisions for row in rows_of(trace)] == [row.decisions for row in one.rows] * 2
    assert trace.requests == 2 * len({row.request for row in one.rows})


def mutations(raw, seed, count):
    """Truncations and small changes of a file, the same in every run."""
    random_ = random.Random(seed)
    pool = [b"[", b"]", b"{", b"}", b",", b'"', b"-1", b"99999999999", b"0", b"null", b"1.5", b"\n", b"\xff", b"x", b""]
    for _ in range(count):
        at = random_.randrange(len(raw))
        if random_.random() < 0.3:
            yield raw[:at]
        else:
            yield raw[:at] + random_.choice(pool) + raw[at + random_.randrange(4) :]


def refusal(path, **options):
    """The sentence with which an import is refused, or None."""
    try:
        import_trace(path, **options)
    except TraceError as error:
        return str(error)
    return None


@pytest.mark.parametrize("case", FOREIGN)
def test_damaged_files_give_a_sentence(tmp_path, case):
    """Either the damage is not visible in the layout, or one sentence says what is wrong; never anything else."""
    one = FOREIGN[case]
    path = one.write(tmp_path)
    if path.is_dir():
        return
    raw = path.read_bytes()
    for number, damaged in enumerate(mutations(raw, case, 60)):
        path.write_bytes(damaged)
        for options in ({}, {"format": one.format}):
            sentence = refusal(path, **one.options, **options)
            assert sentence is None or (str(path) in sentence and "\n" not in sentence), number
