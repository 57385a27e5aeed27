"""Units of a sweep on a Dask cluster. Dask runs a unit again elsewhere when its worker dies, and twice more when it
fails; what cannot succeed is refused with a sentence that names the worker.

Needs the package `distributed` (extra `remoe-sim[distributed]`).
"""

from __future__ import annotations

import pickle
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from remoe_sim.studies.sweep.units import CountUnit, Cut, TimeUnit, Unit
from remoe_sim.util.remote import is_url

if TYPE_CHECKING:
    from distributed import Client

NEEDED = "package 'distributed', which clusters need, is not installed; run: pip install 'remoe-sim[distributed]'"
CUT = Cut(slots=2**22, limits=1, timed=8)
CONNECT_S = 5  # how long a scheduler may take to answer
RETRIES = 2


@contextmanager
def connected(given: Any) -> Iterator[Client]:
    """A client of a cluster, from a client, which stays open, or the address of a scheduler; ValueError if there is
    none, or if its workers do not have what this process has."""
    try:
        import distributed
    except ImportError:
        raise ValueError(NEEDED) from None
    if isinstance(given, str):
        with _connect(distributed, given) as client:
            _check_workers(client)
            yield client
        return
    if not isinstance(given, distributed.Client):
        raise ValueError(
            f"client is a {type(given).__name__}; give a distributed.Client, or the address of a scheduler"
        )
    if given.asynchronous or given.status != "running":
        raise ValueError("the client is asynchronous or closed; make one with distributed.Client(address)")
    _check_workers(given)
    yield given


def _connect(distributed: Any, address: str) -> Any:
    from distributed.comm import get_address_host_port

    try:
        get_address_host_port(address)  # a client that is made of nonsense takes long to close
        return distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except Exception as error:  # whatever answers there, if anything does
        raise ValueError(
            f"no Dask scheduler answers at '{address}' ({error}); start one with 'dask scheduler' and give the address "
            "that it prints, such as tcp://host:8786"
        ) from None


def _check_workers(client: Client) -> None:
    """ValueError unless every worker that is there has the same package; those that join later say so themselves."""
    from remoe_sim.studies.sweep.worker import fingerprint

    mine = platform.python_version_tuple()[:2]
    versions: dict[str, Any] = client.run(platform.python_version_tuple, on_error="return")
    if not versions:
        print("remoe-sim: no worker has joined the scheduler yet; the sweep waits for one", file=sys.stderr)
    for worker, version in versions.items():
        if isinstance(version, tuple) and version[:2] != mine:  # functions of one do not run on the other
            raise ValueError(f"worker {worker} has Python {'.'.join(version)}, and this is {platform.python_version()}")
    for worker, found in client.run(_carried_fingerprint(), on_error="return").items():
        if found is None:
            raise ValueError(f"worker {worker} has no remoe-sim; install {fingerprint()} where it runs")
        if isinstance(found, str) and found != fingerprint():
            raise ValueError(f"worker {worker} has {found}, and this is {fingerprint()}; install the same on both")


def _carried_fingerprint() -> Callable[[], str | None]:
    """A function that is carried to workers whole, as it is in no module: they may not have the package."""

    def found() -> str | None:
        try:
            import remoe_sim
        except ImportError:
            return None
        try:
            from remoe_sim.studies.sweep.worker import fingerprint
        except ImportError:
            return f"remoe-sim {remoe_sim.__version__}"
        return fingerprint()

    return found


def _carried_work() -> Callable[[bytes, str], Any]:
    """The same for a unit: what it finds, or a sentence if trying again would not help."""

    def sweep_unit(payload: bytes, wanted: str) -> Any:
        from distributed import get_worker

        worker = get_worker().address
        try:
            from remoe_sim.studies.sweep.worker import work
        except ImportError:
            return f"worker {worker} has no remoe-sim; install {wanted} where it runs"
        found = work(payload, wanted)
        return f"worker {worker} {found}" if isinstance(found, str) else found

    return sweep_unit


def on_cluster(client: Client, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
    """Runs units wherever there is a free thread, the first ones first, and yields what they find as it comes.

    Raises ValueError for what cannot succeed, and whatever a policy raises.
    """
    from distributed import as_completed

    from remoe_sim.studies.sweep.worker import fingerprint

    run, function, left = uuid4().hex[:8], _carried_work(), dict[str, tuple[Any, Unit]]()
    try:
        for number, unit in enumerate(units):
            future = client.submit(
                function, pickle.dumps(_alone(unit)), fingerprint(), key=f"sweep-{run}-{number:06}", retries=RETRIES,
                priority=-number,
            )  # fmt: skip
            left[future.key] = future, unit
        futures = as_completed(
            [future for future, _ in left.values()], loop=client.loop, with_results=True, raise_errors=False
        )
        for future, found in futures:  # which nobody else keeps, so that what was found leaves the cluster
            _, unit = left.pop(future.key)
            if future.status != "finished":
                raise _why(future, unit)
            if isinstance(found, str):
                raise ValueError(found)
            yield from ((unit, result) for result in found)
    finally:
        client.cancel([future for future, _ in left.values()], force=True)


def _why(future: Any, unit: Unit) -> BaseException:
    """What to raise for a unit that Dask has given up."""
    from distributed.scheduler import KilledWorker

    if future.status != "error":
        return ValueError("the scheduler has gone away; run the sweep again to go on where it was, if it has an output")
    error: BaseException = future.exception()
    if isinstance(error, KilledWorker):
        count = len(unit.layers)
        return ValueError(
            f"workers died {error.allowed_failures + 1} times at a unit of '{unit.subject.name}' ({count} of "
            f"{len(unit.subject.slots)} layers); give them more memory, or fewer threads each"
        )
    return error


def _alone(unit: Unit) -> Unit:
    """A unit with only what it takes to run it elsewhere, where relative paths mean something else."""
    given = str(unit.subject.given)
    here = not given.startswith("sample:") and not is_url(given)
    subject = replace(unit.subject, given=str(Path(given).absolute()) if here else given)
    if isinstance(unit, CountUnit):
        return replace(unit, one=replace(unit.one, subject=subject, cells=[]))
    if isinstance(unit, TimeUnit):
        cells = [cell for cell in unit.one.cells if cell.at in unit.limits]
        return replace(unit, one=replace(unit.one, subject=subject, cells=cells))
    return replace(unit, subject=subject)
