"""What this installation is made of: versions, processors, the cache of compiled kernels, extras."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.threads import most_threads

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.doctor.v1"
DISTRIBUTION = "remoe-sim"


@dataclass(frozen=True)
class Package:
    """A package that is needed: the version that is installed (None if none is), and whether it is recent enough."""

    name: str
    version: str | None
    needs: str
    fits: bool


@dataclass(frozen=True)
class Extra:
    """Packages that some commands need; `install` is the command that adds what is missing, None if nothing is."""

    name: str
    packages: tuple[Package, ...]
    install: str | None


@dataclass(frozen=True)
class KernelCacheState:
    """Where compiled kernels are kept; directory None: no place is writable, so that each process compiles anew.

    kernels: how many signatures are compiled there; size_bytes: what they take on disk.
    """

    directory: str | None
    kernels: int
    size_bytes: int


@dataclass(frozen=True, repr=False)
class Checkup(Shown):
    """What `doctor` found. cores: processors that this process may use; threads: those that layers are spread over."""

    version: str
    location: str
    python: str
    executable: str
    system: str
    cores: int
    threads: int
    cache: KernelCacheState
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]

    @property
    def problems(self) -> list[str]:
        """What does not work or is slow, one sentence each with the remedy; missing extras are not problems."""
        found = [
            f"package {one.name} is {'not installed' if one.version is None else one.version}, and {one.name}"
            f"{one.needs} is needed; run: python -m pip install '{one.name}{one.needs}'"
            for one in self.packages
            if not one.fits
        ]
        if self.cache.directory is None and not found:  # without the compiler nothing is kept either
            found.append(
                "no place for compiled kernels is writable, so each process compiles them anew; set "
                "REMOE_SIM_CACHE_DIR to a directory that is"
            )
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per package, those of extras last."""
        import pandas as pd

        rows = [{"extra": "", **asdict(one)} for one in self.packages]
        rows += [{"extra": extra.name, **asdict(one)} for extra in self.extras for one in extra.packages]
        return pd.DataFrame(rows)

    def _sentence(self) -> str:
        about = f"remoe-sim {self.version} in {self.location}, Python {self.python}, {self.cores} cores"
        return ". ".join([about, *self.problems])

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim doctor --json` prints."""
        return {**stamp(SCHEMA), **asdict(self), "problems": self.problems}


def doctor() -> Checkup:
    """Versions, processors, the kernel cache and extras of this installation.

    It answers where packages are missing, too. Raises ValueError where remoe-sim is not installed as a package.
    """
    from remoe_sim.util.version import __version__

    packages, extras = _requirements()
    return Checkup(
        version=__version__,
        location=str(Path(__file__).parent),
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=most_threads(),
        cache=_kernel_cache(),
        packages=packages,
        extras=extras,
    )


def versions_in_words() -> str:
    """`remoe-sim 0.1.0, Python 3.11.7, numba 0.68.1, …`: what a result may depend on."""
    from remoe_sim.util.version import __version__

    packages = "".join(f", {one.name} {one.version or 'unknown'}" for one in _requirements()[0])
    return f"remoe-sim {__version__}, Python {platform.python_version()}{packages}"


def _requirements() -> tuple[tuple[Package, ...], tuple[Extra, ...]]:
    """What the installed distribution says that it needs, and what each of its extras adds."""
    from packaging.requirements import Requirement

    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise ValueError("remoe-sim runs from a folder in which it is not installed; run pip install . there") from None
    wanted = [Requirement(text) for text in about.get_all("Requires-Dist") or ()]
    core = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    extras = []
    for name in sorted(about.get_all("Provides-Extra") or ()):
        added = [one for one in wanted if one not in core and one.marker and one.marker.evaluate({"extra": name})]
        packages = tuple(_package(one) for one in added)
        complete = all(package.fits for package in packages)
        extras.append(Extra(name, packages, None if complete else f"pip install '{DISTRIBUTION}[{name}]'"))
    return tuple(_package(one) for one in core), tuple(extras)


def _package(wanted: Any) -> Package:
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Package(wanted.name, None, str(wanted.specifier), False)
    return Package(wanted.name, version, str(wanted.specifier), wanted.specifier.contains(version, prereleases=True))


def _kernel_cache() -> KernelCacheState:
    try:
        from remoe_sim.kernels.compile import cache_directory
    except ImportError:  # no compiler: said beside the packages
        return KernelCacheState(None, 0, 0)
    directory = cache_directory()
    kept = [] if directory is None else list(directory.rglob("*.nb[ic]"))
    compiled = [file for file in kept if file.suffix == ".nbc"]
    return KernelCacheState(
        None if directory is None else str(directory), len(compiled), sum(file.stat().st_size for file in kept)
    )
