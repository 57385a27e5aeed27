"""What the documents and --help say is run: every command, every Python block, and what they show is what is printed.

In a document, lines after `$` in a `console` block are commands, the lines below a command what it prints; a `python`
block is run, and a `text` block right after it is what it prints. A block below a line that ends in a file's name in
backquotes and a colon is that file. Commands that set up a checkout are not run here. What has `<!-- needs capture -->`
before it needs torch and transformers: it is run by the tests that are marked `heavy`, with the rest of its document.
So is what has `<!-- needs llamacpp -->`, for which a tiny `my-model.gguf` is in the reader's folder.
A block without a kind is one command per line, which are run, and what they print is not looked at. Of what is below
`<!-- of one machine -->` only words that begin lines are compared; `<!-- not run: why -->` leaves a block out.
A document with `<!-- needs trace FILE -->` is read where the real traces are, with that file in the reader's folder.
"""

import gzip
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from remoe_sim.kernels import compile
from tests.support.data import DEMO, SHARED, needs_traces
from tests.support.reroutes import one_layer
from tests.support.tiny_gguf import save_tiny_gguf

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "traces" / "samples" / "README.md"]
SETUP = ("make ", "git ", "pip ", "source ", "cd ")
NEEDS = r"<!-- needs (?P<needs>capture|llamacpp) -->"
NEEDS_TRACE = re.compile(r"<!-- needs trace (\S+) -->")
BLOCK = re.compile(
    rf"(?:{NEEDS}\n+)?(?P<machine><!-- of one machine -->\n+)?(?P<not_run><!-- not run: [^>]+ -->\n+)?"
    r"(?:`(?P<file>[\w.-]+\.\w+)`:\n\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
HEAVY_COMMANDS = {"capture", "finetune"}
heavy = (pytest.mark.heavy, pytest.mark.filterwarnings("ignore"))
EXTRAS = {"capture": heavy, "llamacpp": (pytest.mark.heavy("llama_cpp", "gguf"), pytest.mark.filterwarnings("ignore"))}
OTHERWISE_DRAWN = {"layout"}  # a picture of the code, which `test_layout_page` looks at
KINDS = {"console", "python", "text", "toml", "json", "csv", ""}


def clean(text):
    """Without spaces at the ends of lines, and without empty lines around."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()).rstrip()


def commands_of(body):
    """Pairs of a command and what it shows; a command goes on after a backslash, an empty line is before the next."""
    parts = re.split(r"(?:\A|(?<=\n\n))\$ ", body.replace("\\\n", ""))
    assert not parts[0].strip(), f"output without a command: {parts[0]}"
    return [tuple(part.partition("\n")[::2]) for part in parts[1:]]


def words(text):
    """What lines begin with, but for those that are indented."""
    return {line.split()[0] for line in text.splitlines() if line[:1].strip()}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A copy of what is compiled already, for the kernels of the documents to be added to."""
    copy, kept = tmp_path_factory.mktemp("kernels"), compile.cache_directory()
    if kept is not None:
        shutil.copytree(kept, copy / kept.name)
    return copy


class Reader:
    """Somebody who follows a document to the letter, in a folder of their own."""

    def __init__(self, folder, kernels):
        self.folder = folder
        (folder / "traces").symlink_to(ROOT / "traces")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        path = [str(Path(sys.executable).parent), inherited["PATH"]]
        self.environment = inherited | {
            **{"PATH": os.pathsep.join(path), "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1", "COLUMNS": "80"},
            "REMOE_SIM_CACHE_DIR": str(kernels),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def run(self, *command):
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,  # what never ends fails by itself
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return "\n".join(line for line in done.stdout.splitlines() if "compiling kernels" not in line)

    def write(self, name, body):
        (self.folder / name).write_text(body)
        if name == "pyproject.toml":  # what installing it would leave behind
            project = tomllib.loads(body)["project"]
            about = self.folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
            groups = project.get("entry-points", {}).items()
            lines = [
                line for group, names in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))
            ]
            (about / "entry_points.txt").write_text("\n".join(lines))


def readings():
    """Each document, and once more for each extra with the blocks that need it."""
    for document in DOCUMENTS:
        name = str(document.relative_to(ROOT))
        marks = [] if name == "README.md" else [pytest.mark.heavy("numba")]
        marks += [needs_traces] * bool(NEEDS_TRACE.search(document.read_text()))
        yield pytest.param(document, None, id=name, marks=marks)
        for extra in sorted({block["needs"] for block in BLOCK.finditer(document.read_text())} - {None}):
            yield pytest.param(document, extra, id=f"{name} with {extra}", marks=EXTRAS[extra])


@pytest.mark.once
@pytest.mark.parametrize(("document", "extra"), list(readings()))
def test_everything_in_a_document_runs_and_prints_what_it_shows(document, extra, tmp_path, kernels):
    reader, printed, blocks = Reader(tmp_path, kernels), None, list(BLOCK.finditer(document.read_text()))
    assert sum(bool(block["needs"]) for block in blocks) == len(re.findall(NEEDS, document.read_text()))
    assert 2 * len(blocks) == len(re.findall("^ *```", document.read_text(), re.MULTILINE)), "a block of an odd form"
    if extra == "llamacpp":
        save_tiny_gguf(tmp_path / "my-model.gguf")
    for trace in NEEDS_TRACE.findall(document.read_text()):
        shutil.copy(SHARED / trace, tmp_path)
    for block in blocks:
        kind, body = block["kind"], block["body"]
        assert kind in KINDS, f"{document.name} has a block of kind '{kind}', which nothing here checks"
        if block["not_run"] or block["needs"] not in (None, extra):
            printed = None
            continue
        if block["file"]:
            reader.write(block["file"], body)
        elif kind == "python":
            printed = reader.run(sys.executable, "-c", body)
            continue
        elif kind == "text":
            assert printed is not None, f"{document.name} shows what no block before it prints: {body}"
            assert clean(printed) == clean(body)
        elif kind == "":
            for command in body.replace("\\\n", "").splitlines():
                reader.run("bash", "-c", command)
        elif kind == "console":
            for command, shown in commands_of(body):
                if command == "make demo":
                    command = "remoe-sim demo"
                elif command.startswith(SETUP):
                    continue
                found = reader.run("bash", "-c", command)
                if block["machine"]:
                    assert words(shown) - words(found) <= {"…"}, command
                else:
                    assert clean(found) == clean(shown), command
        else:
            pytest.fail(f"{document.name} has a block of kind '{kind}' that is no file: name it before the block")
        printed = None
    for name in {*re.findall(r"\]\(([\w-]+)\.svg\)", document.read_text())} - OTHERWISE_DRAWN:
        shown, drawn = (ROOT / "docs" / f"{name}.svg").read_text(), (tmp_path / f"{name}.svg").read_text()
        versions = {re.search("Matplotlib v[0-9.]+", text)[0] for text in (shown, drawn)}
        assert shown == drawn or len(versions) == 2, f"{name}.svg is not what the commands draw"


def test_make_demo_is_what_the_readme_test_takes_it_for():
    steps = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert steps.splitlines()[-1].endswith("bin/remoe-sim demo")


def test_documents_link_to_files_that_are_there():
    for document in [*DOCUMENTS, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_installation_names_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "installation.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(extras)


@pytest.mark.once
def test_documents_name_every_key_that_is_printed():
    text = (ROOT / "docs" / "semantics.md").read_text()
    named = set(re.findall(r"`([\w.]+)`", text))
    trace = remoe_sim.read_trace(DEMO)
    answers = [remoe_sim.replay(trace, cache=2).to_dict(), remoe_sim.info(trace).to_dict()]
    answers[1]["source"], answers[1]["phases"] = {}, {}
    keys = set(remoe_sim.curve(trace, cache=[2]).columns)

    def collect(value):
        for inner in value.values() if isinstance(value, dict) else value[:1] if isinstance(value, list) else ():
            collect(inner)
        if isinstance(value, dict):
            keys.update(value)

    for answer in answers:
        collect(answer)
    assert keys - named == set()


# --- the examples of --help

GIVEN = re.compile(r"\.(parquet|npz|csv|jsonl|txt|gguf)(\.gz)?$|/my-model$|quick\.toml$|bench\.json$")
EXAMPLE = re.compile(r"^ +(remoe-sim .+)$", re.MULTILINE)
BIGMOE = """# route_trace v1
# model=/data/Tiny-Q4_K_M.gguf arch=tiny n_layer=1 n_expert=4 n_expert_used=1
# layer=0 expert_bytes=1000 dense_bytes=500
turn,phase,step,layer,slot,expert,weight,residency,expert_bytes
0,0,0,0,0,3,1.0,0,1000
0,1,1,0,0,3,1.0,1,0
0,1,2,0,0,2,1.0,0,1000
"""
PLAIN_CSV = "request,position,phase,layer,expert\n0,0,prefill,0,3\n0,1,decode,0,3\n0,2,decode,0,2\n"
RUNS = "model,quant,tpot_ms,MiB_read_per_token\n" + "".join(f"olmoe-1b-7b,q4_k_m,{n}0,{n}5\n" for n in range(2, 6))
MARKED = '[{"first_token_index": 0, "has_repetition": false}]'
PLAIN_JSONL = '{"request": 0, "position": 0, "phase": "decode", "layer": 0, "experts": [3, 1]}\n'


RECIPE = """length = 64
batch = 1
accumulate = 1
evaluate_every = 2
band = 0.5
[[stages]]
name = "reuse"
steps = 2
learning_rate = 1e-3
terms = { language_model = 1.0, reuse = 0.5 }
"""
OTHER_TEXTS = {
    "quick.toml": RECIPE,
    "texts.jsonl": '{"text": "w5 w6 w7"}\n{"text": "w8 w9"}\n',
    "prompts.jsonl": '{"prompt": "w5 w6"}\n',
    "prompts.txt": "w5 w6\nw7\n",
    "runs.csv": RUNS,
    "speeds.csv": "model,quant,device,tok_s\nqwen3-30b-a3b,q4_k_m,rtx-4090,180\n",
    "bench.json": (
        '[{"model_filename": "Qwen3-30B-A3B-Q4_K_M.gguf", "gpu_info": "NVIDIA GeForce RTX 3090", "n_prompt": 0, '
        '"n_gen": 128, "n_depth": 0, "avg_ts": 130.0}]'
    ),
    "log.csv": "when,l,chosen\n0,0,3\n0,0,1\n",
    ".jsonl": PLAIN_JSONL,
    ".csv": PLAIN_CSV,
}


def provide(name):
    """A file of the user's, of the kind that its name says."""
    path = Path(name)
    if name == "probs.parquet":
        remoe_sim.write_trace(one_layer([[0.5, 0.25, 0.125, 0.125]] * 2, [[0, 1], [1, 0]]), path)
    elif name == "sweep.parquet":
        remoe_sim.sweep(DEMO, "lru", cache=8, output=path)
    elif name.endswith(".parquet"):
        shutil.copy(DEMO, path)
    elif name.endswith(".npz"):
        np.savez(path, experts=np.array([[[0, 1]], [[1, 2]]]), meta=MARKED)
    elif name == "my-model":
        from tests.support.tiny_models import save_tiny

        save_tiny(path)
    elif name.endswith(".gguf"):
        save_tiny_gguf(path)
    else:
        text = BIGMOE if ".route." in name else OTHER_TEXTS[next(end for end in OTHER_TEXTS if end in name)]
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def examples():
    """A command's name and one of its examples; marked if they need torch."""
    found = []
    for name in [None, *cli.main.list_commands(None)]:
        text = CliRunner().invoke(cli.main, [*([name] if name else []), "--help"], terminal_width=200).stdout
        lines = EXAMPLE.findall(re.sub(r" *\\\n +", " ", text))
        for line in lines:
            marks = EXTRAS["llamacpp"] if ".gguf" in line else heavy if name in HEAVY_COMMANDS else ()
            found.append(pytest.param(name or "remoe-sim", re.split(r" {2,}| \| ", line)[0], marks=marks))
    return found


@pytest.mark.once
@pytest.mark.parametrize(("name", "example"), examples())
def test_examples_of_help_run(name, example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(example)[1:]
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before != "-o" and GIVEN.search(argument):
            provide(argument.removeprefix("./"))
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.exception
    assert result.stdout or "-o" in arguments


def test_every_command_has_examples_of_its_own():
    names = {name for name, example in (one.values for one in examples()) if example.split()[1] == name}
    assert names == set(cli.main.list_commands(None))


def test_every_option_of_a_command_has_help():
    for name in cli.main.list_commands(None):
        for parameter in cli.main.get_command(None, name).params:
            assert isinstance(parameter, click.Argument) or parameter.help, f"{name} {parameter.name}"


def test_files_that_the_documents_name_as_modules_exist():
    for name in re.findall(r"`(remoe_sim(?:\.\w+)+)`", "".join(file.read_text() for file in DOCUMENTS)):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        assert found or hasattr(remoe_sim, name.split(".")[1]), name
