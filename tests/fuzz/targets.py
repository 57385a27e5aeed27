"""What is fuzzed: by name a function of an input, and the inputs to begin with."""

import re
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO

import click

import remoe_sim
from remoe_sim import cli
from remoe_sim.formats.format import PACKAGE, TraceFormat
from remoe_sim.trace.schema import content_hash
from remoe_sim.util.cards import read_card
from remoe_sim.util.plugins import plugins
from tests.fuzz import seeds

# What an import is told besides the file. An input always gets the same, but changed inputs get others.
OPTIONS = (
    *({"top_k": 2},) * 9, {}, {}, {"experts": 8, "top_k": 2, "dense_bytes": "1KiB"}, {"expert_bytes": "3MiB"},
    {"top_k": 1, "expert_bytes": "3MiB,1KiB", "name": "m"}, {"where": "has_repetition=false"},
    {"where": ["dataset!=x", "id=a"], "experts": 300},
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """run: a function (input, folder to write to); begin: a function (empty folder) to valid inputs."""

    run: Callable
    begin: Callable


def folder_name(name):
    """What the folder of a target is called."""
    return re.sub(r"[^\w.-]", "-", name)


def written(data, path):
    """The path, with the input in it."""
    path.write_bytes(data)
    return path


def used(trace, folder, again=False):
    """Reads everything that a trace has; `again`: writes it, and reads that."""
    for index in range(trace.moe_layers):
        trace.decisions(index)
        trace.source.weights(index)
        trace.source.probs(index)
    if again:
        path = folder / "again.parquet"
        remoe_sim.write_trace(trace, path)
        back = remoe_sim.read_trace(path)
        used(back, folder)
        assert content_hash(back) == content_hash(trace)
        assert (back.notes, back.origin, back.model.name) == (trace.notes, trace.origin, trace.model.name)


def imported(data, folder, name=None, path=None):
    chance = zlib.crc32(data)
    path = path or written(data, folder / "input")
    used(remoe_sim.import_trace(path, format=name, **OPTIONS[chance % len(OPTIONS)]), folder, chance >> 8 & 7 == 0)


def flame(data, folder):
    place = folder / "flame"
    if not place.exists():
        for number, whole in enumerate(seeds.flame(folder)):
            (folder / f"whole-{number}").write_bytes(whole[1:])
    which = (data or b"\0")[0] % len(seeds.FLAME)
    written(data[1:], place / seeds.FLAME[which])
    try:
        imported(data, folder, path=place)
    finally:
        (place / seeds.FLAME[which]).write_bytes((folder / f"whole-{which}").read_bytes())


def trace_file(data, folder):
    used(remoe_sim.read_trace(written(data, folder / "t.parquet")), folder, zlib.crc32(data) & 7 == 0)


def model_card(data, folder):
    remoe_sim.model(written(data, folder / "m.toml"))


def device_card(data, folder):
    path = written(data, folder / "d.toml")
    read_card("device", path)
    remoe_sim.estimate("qwen3-30b-a3b", remoe_sim.device(path), quant="q4_k_m")


def recipe(data, folder):
    from remoe_sim.finetune.recipe import read_recipe

    read_recipe(written(data, folder / "r.toml"))


def config(data, folder):
    remoe_sim.model(written(data, folder / "config.json"), quant="q4_k_m")


def gguf(data, folder):
    remoe_sim.model(written(data, folder / "m.gguf"))


def runs(data, folder):
    from remoe_sim.devices.measured_runs import read_runs

    read_runs(written(data, folder / "runs.csv"), "qwen3-30b-a3b" if zlib.crc32(data) & 1 else None)


def prompts(data, folder):
    from remoe_sim.capture.inputs import read_prompts

    read_prompts(written(data, folder / "p.jsonl"))


def sweep_file(data, folder):
    from remoe_sim.studies.sweep.file import is_sweep, read_frame

    path = written(data, folder / "s.parquet")
    if is_sweep(path):
        read_frame(path)


def _parsers():
    from remoe_sim.cache.caches import Pins
    from remoe_sim.cache.settings import Limit, Settings, find_policies, known_sizes
    from remoe_sim.formats.format import parse_sizes
    from remoe_sim.formats.join import conditions
    from remoe_sim.studies.sweep.axes import _batches, _budgets, _caches
    from remoe_sim.util import units
    from remoe_sim.util.units import several
    from tests.support.small import small

    trace = small()
    return {
        "bytes": units.parse_bytes,
        "range": lambda text: units.parse_range(text, "cache"),
        "count": lambda text: units.parse_count(text, "count"),
        "number": lambda text: units.parse_number(text, "number"),
        "ms": lambda text: units.parse_ms(text, "time"),
        "where": conditions,
        "pin": lambda text: Pins.of(trace, text),
        "policy": find_policies,
        "budget": lambda text: _budgets(several(text)),
        "cache": lambda text: _caches(several(text)),
        "batch": lambda text: _batches(several(text)),
        "reserve": lambda text: Limit.of(None, None, "1GiB").without_reserve(trace, text),
        "expert_bytes": lambda text: (known_sizes(trace, text), parse_sizes("expert_bytes", text)),
        "setting": lambda text: Settings(**dict([text.partition("=")[::2]])) if text.split("=")[0] in SETTINGS else 0,
    }


SETTINGS = ("scope", "admission", "order", "reset", "phase", "warmup")
_found: dict = {}


def parser(data, folder):
    if not _found:
        _found.update(_parsers())
    name, _, text = data.decode(errors="replace").partition(" ")
    if name in _found and not text.split(":")[0].endswith(".py"):
        _found[name](text)


def command(data, folder):
    """A command on a small trace; those that write or run for long are left out."""
    from tests.support.small import small

    path = folder / "small.parquet"
    if not path.exists():
        remoe_sim.write_trace(small(), path)
    name, *given = data.decode(errors="replace").split(" ")
    if name not in {line.split()[0] for line in seeds.COMMANDS} or any(one.startswith(("-o", "--o")) for one in given):
        return
    given = [str(path) if one == "trace" else one for one in given if ".py" not in one]
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            cli.main.main([name, str(path), *given], prog_name="remoe-sim", standalone_mode=False)
    except (click.ClickException, click.exceptions.Exit):
        pass


def _of_format(name, folder):
    return [content for one, content in seeds.imports(folder) if one == name]


TARGETS = {
    "import": Target(imported, lambda folder: [content for _, content in seeds.imports(folder)]),
    "import flame-moe": Target(flame, seeds.flame),
    "trace file": Target(trace_file, seeds.traces),
    "model card": Target(model_card, lambda folder: seeds.cards("models")),
    "device card": Target(device_card, lambda folder: seeds.cards("devices")),
    "recipe": Target(recipe, lambda folder: seeds.recipes()),
    "config.json": Target(config, lambda folder: seeds.configs()),
    "gguf": Target(gguf, seeds.ggufs),
    "measured runs": Target(runs, lambda folder: seeds.runs()),
    "prompts": Target(prompts, lambda folder: seeds.prompts()),
    "sweep file": Target(sweep_file, seeds.sweeps),
    "parsers": Target(parser, lambda folder: seeds.texts()),
    "command line": Target(command, lambda folder: seeds.commands()),
} | {
    f"import {name}": Target(partial(imported, name=name), partial(_of_format, name))
    for name in plugins(PACKAGE, TraceFormat)
    if name != "flame-moe"
}  # fmt: skip
