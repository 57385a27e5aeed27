"""Traces and recordings at URLs: fsspec's memory, a web server with and without byte ranges, an S3 server."""

import shutil
import subprocess
import sys
import uuid

import fsspec
import pytest
from click.testing import CliRunner

import remoe_sim
import remoe_sim.trace.reader
import remoe_sim.util.remote_errors
from remoe_sim import TraceError, import_trace, read_trace, synth, write_trace
from remoe_sim.cli import main
from remoe_sim.util.remote import RemotePath, is_url, place
from tests.support.data import DEMO
from tests.support.foreign_files import flame_moe
from tests.support.imported import refused, rows_of
from tests.support.web_server import Failing, Flaky, Folder, Ranges, Silent, Slow, serving

WEB = pytest.mark.heavy("aiohttp")


@pytest.fixture
def memory():
    """The URL of an empty folder in fsspec's memory."""
    folder = f"memory://{uuid.uuid4().hex}"
    yield folder
    system = fsspec.filesystem("memory")
    if system.exists(folder):
        system.rm(folder, recursive=True)


@pytest.fixture
def in_parts(monkeypatch):
    """No trace is kept in memory, however small."""
    monkeypatch.setattr(remoe_sim.trace.reader, "RESIDENT_BYTES", 0)


def trace(tokens=300):
    return synth(tokens=tokens, layers=3, experts=16, top_k=2, request_tokens=100, prompt_tokens=20)


def same(one, other):
    assert rows_of(one) == rows_of(other)
    assert one.model == other.model


def files_in(folder):
    return sorted(name.rsplit("/", 1)[-1] for name in fsspec.filesystem("memory").find(folder))


def test_what_is_a_url(tmp_path):
    assert all(map(is_url, ["s3://b/t", "hf://datasets/a/b", "memory://t", "simplecache::s3://b/t", "HTTP://h/t"]))
    assert not any(map(is_url, ["t.parquet", "a/b://c", DEMO, "C:/t", "./s3://b", tmp_path]))
    assert place("file:///tmp/t.parquet") == place("/tmp/t.parquet")


def test_a_trace_is_written_and_read(memory, in_parts):
    write_trace(trace(), f"{memory}/t.parquet")
    assert files_in(memory) == ["t.parquet"]
    there = read_trace(f"{memory}/t.parquet")
    assert there.path == f"{memory}/t.parquet"
    same(there, trace())
    assert remoe_sim.replay(f"{memory}/t.parquet", cache=4, train=f"{memory}/t.parquet")["lru"].lookups


def test_commands_take_urls(memory, tmp_path):
    def run(*arguments):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, (arguments, done.output, done.exception)
        return done.output

    url = f"{memory}/t.parquet"
    assert f"wrote {url}" in run("synth", "--tokens", "200", "--layers", "2", "-o", url)
    assert url in run("info", url)
    run("curve", url, "--policy", "lru", "-o", f"{memory}/c.csv")
    assert "wrote" in run("export", url, "-o", f"{memory}/t.npz")
    run("import", f"{memory}/t.npz", "--experts", "64", "-o", f"{memory}/again.parquet")
    assert "1 cells" in run("sweep", url, "--policy", "lru", "--cache", "4", "--dry-run")
    assert "B: memory://" in run("compare", url, f"{memory}/again.parquet")
    same(read_trace(url), read_trace(f"{memory}/again.parquet"))
    assert files_in(memory) == ["again.parquet", "c.csv", "t.npz", "t.parquet"]


def test_a_trace_that_cannot_be_written_leaves_nothing(memory, monkeypatch):
    monkeypatch.setattr(remoe_sim.trace.writer._Writer, "_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_trace(trace(), f"{memory}/t.parquet")
    assert not fsspec.filesystem("memory").exists(memory)


def test_a_recording_is_fetched_once_and_removed(memory, tmp_path):
    np_file = tmp_path / "routing.npz"
    remoe_sim.export(trace(), np_file)
    fsspec.filesystem("memory").put(str(np_file), f"{memory}/routing.npz")
    there, here = import_trace(f"{memory}/routing.npz"), import_trace(np_file)
    same(there, here)
    assert there.origin == here.origin  # base name and digest
    assert there.path == f"{memory}/routing.npz"
    path = place(f"{memory}/routing.npz")
    copy = path.fetched()
    assert copy.read_bytes() == np_file.read_bytes()
    assert path.fetched() == copy
    del path
    assert not copy.parent.exists()


def test_a_directory_is_read_where_it_lies(memory, tmp_path, monkeypatch):
    path = flame_moe(tmp_path)
    fsspec.filesystem("memory").put(str(path), memory, recursive=True)
    monkeypatch.setattr(RemotePath, "fetched", lambda self: 1 / 0)
    for folder in (memory, f"{memory}/actives/iter_0010"):
        there = import_trace(folder)
        same(there, import_trace(path))
        assert there.token_id.tolist() == [7, 8, 9, 10, 11]
        assert there.origin["path"] == folder.rsplit("/", 1)[-1]


def test_what_is_not_there(memory, tmp_path):
    with pytest.raises(TraceError, match=f"^{memory}/t.parquet: there is no such object; check the URL$"):
        read_trace(f"{memory}/t.parquet")
    refused(f"{memory}/t.csv", "there is no such object")
    fsspec.filesystem("memory").pipe(f"{memory}/empty", b"")
    refused(f"{memory}/empty", "the file is empty")
    with pytest.raises(TraceError, match="this is a directory"):
        read_trace(memory)
    with pytest.raises(TraceError, match="the file is empty"):
        read_trace(f"{memory}/empty")


def test_what_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match=r"^xyz://b/t: Protocol not known: xyz; use one of fsspec's schemes"):
        read_trace("xyz://b/t")
    with pytest.raises(ValueError, match="files cannot be written whole there"):
        write_trace(trace(), f"zip://t.parquet::file://{shutil.make_archive(str(tmp_path / 'z'), 'zip', tmp_path)}")
    with pytest.raises(ValueError, match=r"^zip://t.parquet::memory://z.zip: there is no such object"):
        read_trace("zip://t.parquet::memory://z.zip")
    with pytest.raises(ValueError, match="a sweep is written as it goes"):
        remoe_sim.sweep(DEMO, output="s3://b/s.parquet")
    with pytest.raises(ValueError, match="figures are written to folders of this machine"):
        remoe_sim.plot(DEMO, "s3://b/figures")


@pytest.mark.parametrize(("module", "url"), [("fsspec", "s3://b/t"), ("s3fs", "s3://b/t"), ("aiohttp", "https://h/t")])
def test_a_missing_package_is_named(monkeypatch, module, url):
    for scheme in ("s3", "https"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    for name in [one for one in sys.modules if one.split(".")[0] == module or one.endswith("implementations.http")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ValueError, match=rf"^{url[:-4]}.*{module}.*; run: python -m pip install 'remoe-sim\[remote\]'$"
    ):
        read_trace(url)


def test_importing_the_package_loads_no_driver():
    code = "import remoe_sim.trace.reader, sys; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@WEB
def test_only_the_columns_that_are_asked_for_are_read(tmp_path, in_parts):
    write_trace(synth(tokens=4000, layers=20, experts=64, top_k=6), tmp_path / "t.parquet")
    size = (tmp_path / "t.parquet").stat().st_size
    with serving(tmp_path) as server:
        there = read_trace(f"{server.url}/t.parquet")
        server.sent.clear()
        there.decisions(3)
        assert len(server.sent) == 1
        assert sum(sent for *_, sent in server.sent) < size / 15
        same(there, read_trace(tmp_path / "t.parquet"))
        assert all(sent is not None for *_, sent in server.sent)


@WEB
def test_a_server_without_ranges_gives_all_at_once(tmp_path, in_parts):
    write_trace(trace(), tmp_path / "t.parquet")
    with serving(tmp_path, Folder) as server:
        same(read_trace(f"{server.url}/t.parquet"), trace())


@WEB
def test_directories_on_the_web(tmp_path):
    path = flame_moe(tmp_path)
    for handler in (Ranges, Folder):
        with serving(tmp_path, handler) as server:
            there = import_trace(f"{server.url}/{path.name}/")
            same(there, import_trace(path))
            assert there.token_id is not None


@WEB
@pytest.mark.parametrize(
    ("status", "part"), [(403, "access is refused \\(403"), (500, "the server fails \\(500"), (404, "no such object")]
)
def test_a_server_that_answers_with_an_error(tmp_path, status, part):
    with serving(tmp_path, Failing, status) as server:
        with pytest.raises(TraceError, match=part):
            read_trace(f"{server.url}/t.parquet")
        refused(f"{server.url}/t.csv", part)


@WEB
def test_a_server_that_breaks_off(tmp_path, in_parts):
    write_trace(trace(), tmp_path / "t.parquet")
    with serving(tmp_path) as server:
        there = read_trace(f"{server.url}/t.parquet")
        server.lost = 7
        with pytest.raises(TraceError, match=r"t\.parquet: (reading or writing broke off|the server cannot be)"):
            there.decisions(0)
        url = server.url
    with pytest.raises(TraceError, match=r"the server cannot be reached|broke off"):  # its last thread may still answer
        there.decisions(0)
    with pytest.raises(TraceError) as caught:
        read_trace(url.replace("//", "//me:secret@") + "/t.parquet?signature=secret")
    assert "secret" not in str(caught.value)


@WEB
@pytest.mark.parametrize("lost", [0, 200])
def test_a_silent_server_is_given_up_with_a_sentence(tmp_path, monkeypatch, capsys, lost):
    """Whether it never answers, or stops in the midst of a file."""
    monkeypatch.setattr(remoe_sim.util.remote_errors, "STALL_S", 0.4)
    write_trace(trace(), tmp_path / "t.parquet")
    remoe_sim.export(trace(), tmp_path / "routing.npz")
    with serving(tmp_path, Silent, lost=lost) as server:
        with pytest.raises(TraceError, match=r"t\.parquet: the server sends nothing; try again later"):
            read_trace(f"{server.url}/t.parquet")
        refused(f"{server.url}/routing.npz", "the server sends nothing; try again later")
        assert 2 <= server.asked <= 24
    said = capsys.readouterr().err
    assert "t.parquet: waiting for the server, which sends nothing" in said
    assert "t.parquet: the server sends nothing; trying again (2 of 3)" in said


@WEB
def test_a_slow_server_is_waited_for(tmp_path, monkeypatch):
    """However long all of it takes, as long as something comes."""
    monkeypatch.setattr(remoe_sim.util.remote_errors, "STALL_S", 1.5)
    remoe_sim.export(trace(), tmp_path / "routing.npz")
    with serving(tmp_path, Slow, pause=0.25) as server:
        same(import_trace(f"{server.url}/routing.npz"), import_trace(tmp_path / "routing.npz"))
    session = place("http://h/t")._system.client_kwargs["timeout"]
    assert (session.total, session.sock_read) == (None, 1.5)


@WEB
def test_what_may_pass_is_tried_again(tmp_path, capsys):
    remoe_sim.export(trace(), tmp_path / "routing.npz")
    with serving(tmp_path, Flaky, lost=2) as server:
        same(import_trace(f"{server.url}/routing.npz"), import_trace(tmp_path / "routing.npz"))
        assert "routing.npz: the server fails (503" in capsys.readouterr().err
    with serving(tmp_path, Flaky, lost=99) as server:
        refused(f"{server.url}/routing.npz", "the server fails \\(503")
        assert server.asked <= 8


def test_what_a_user_configured_for_fsspec_stays(monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setitem(fsspec.config.conf, "https", {"client_kwargs": {"trust_env": True, "timeout": "mine"}})
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 7}})
    patience = remoe_sim.util.remote_errors.patience
    assert patience("https://h/t") == {"https": {"client_kwargs": {"timeout": "mine", "trust_env": True}}}
    assert patience("simplecache::s3://b/t")["s3"]["config_kwargs"]["read_timeout"] == 7
    assert patience("memory://t") == {}


@WEB
def test_a_query_is_no_part_of_a_name(tmp_path):
    remoe_sim.export(trace(), tmp_path / "routing.npz")
    with serving(tmp_path, Folder) as server:
        there = import_trace(f"{server.url}/routing.npz?signature=secret")
        assert (there.path, there.origin["path"]) == (f"{server.url}/routing.npz", "routing.npz")


@pytest.mark.heavy("s3fs", "moto", "flask")
def test_s3(tmp_path, monkeypatch, in_parts):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
        for name, value in {**settings, "DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("bucket")
        write_trace(trace(), "s3://bucket/folder/t.parquet")
        same(read_trace("s3://bucket/folder/t.parquet"), trace())
        path = flame_moe(tmp_path)
        system.put(str(path), "bucket/flame", recursive=True)
        same(import_trace("s3://bucket/flame"), import_trace(path))
        with pytest.raises(TraceError, match="there is no such object"):
            read_trace("s3://bucket/none.parquet")
    finally:
        server.stop()
