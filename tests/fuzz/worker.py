"""Fuzzes a target for some seconds in a process of its own, guided by the coverage of the package's code (atheris)."""

import hashlib
import importlib
import os
import pkgutil
import random
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import atheris

LONGEST = {"gguf": 100_000}
MOST_LENGTH = 20_000
STRUCTURED = 0.75  # share of mutations that know the structure; the others are those of libFuzzer


class _Without:
    """As where torch and transformers are not there. None in `sys.modules` would do, were it not for scipy, which looks
    there for what was imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def targets():
    """The targets, of code that was instrumented as it was imported; to be called once, before anything is imported."""
    import remoe_sim

    plain = _plain()
    sys.meta_path.insert(0, _Without)
    with atheris.instrument_imports(include=["remoe_sim"], exclude=plain):
        for module in pkgutil.walk_packages(remoe_sim.__path__, "remoe_sim.", onerror=lambda name: None):
            with suppress(ImportError):  # of what needs torch
                importlib.import_module(module.name)
        from tests.fuzz.targets import TARGETS
    return TARGETS


def begin(target, folder):
    """Writes valid inputs to `folder`/corpus and runs them, which compiles and imports what is loaded late."""
    from tests.fuzz import seeds

    corpus, scratch = folder / "corpus", _scratch(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    (folder / "found").mkdir(exist_ok=True)
    inputs = target.begin(seeds.fresh(scratch / "begin"))
    seeds.fresh(scratch)
    for data in inputs:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        with suppress(ValueError):
            target.run(data, scratch)


def fuzz(name, target, folder, seconds, seed):
    """What is said of progress goes to `folder`.log. The folder keeps what was reached (`corpus`), and what broke the
    contract (`found`, the smallest input of each kind)."""
    child = os.fork()
    if not child:
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _fuzz(name, target, folder, seconds, seed)
    os.waitpid(child, 0)


def _fuzz(name, target, folder, seconds, seed):
    from remoe_sim.util.threads import one_thread
    from tests.fuzz.contract import BrokenError, attempt, limit_memory
    from tests.fuzz.mutations import mutated

    scratch, found = _scratch(folder), folder / "found"
    warnings.simplefilter("error")
    limit_memory()

    def one(data):
        try:
            with one_thread():
                attempt(target, data, scratch)
        except BrokenError as broken:
            _keep(found, data, broken)

    def mutate(data, most, seed):
        rng = random.Random(seed)
        return mutated(data, rng, most) if rng.random() < STRUCTURED else atheris.Mutate(data, most)

    atheris.Setup(
        [
            sys.argv[0], f"-max_total_time={seconds}", f"-max_len={LONGEST.get(name, MOST_LENGTH)}", f"-seed={seed}",
            "-mutate_depth=1", "-timeout=60", "-rss_limit_mb=0", f"-artifact_prefix={found}/",
            str(folder / "corpus"),
        ],
        one,
        custom_mutator=mutate,
    )  # fmt: skip
    atheris.Fuzz()


def _scratch(folder):
    """Where inputs are written; in memory where the system has such a place."""
    memory = Path("/dev/shm")
    return (memory if memory.is_dir() else folder) / f"remoe-sim-{os.getuid()}-{folder.name}"


def _plain():
    """Modules that stay as they are: those with functions that Numba compiles."""
    import remoe_sim

    package = Path(remoe_sim.__file__).parent
    kernels = [f"remoe_sim.kernels.{path.stem}" for path in (package / "kernels").glob("*.py")]
    policies = [f"remoe_sim.policies.{path.stem}" for path in (package.parent / "policies").glob("*.py")]
    return [
        "remoe_sim.kernels.compile",
        "remoe_sim.kernels",
        "remoe_sim.policies",
        "remoe_sim.policy",
        *kernels,
        *policies,
    ]


def _keep(found, data, broken):
    """The smallest input of a kind of defect, and what was said."""
    place = found / hashlib.sha256(broken.key.encode()).hexdigest()[:12]
    if not place.exists() or len(data) < place.stat().st_size:
        place.write_bytes(data)
        place.with_suffix(".txt").write_text(f"{broken.key}\n{broken}\n", errors="backslashreplace")
