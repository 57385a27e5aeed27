"""A machine put together from cards: a device with a host, a storage and an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.devices.device import Device
from remoe_sim.devices.device import device as find_device
from remoe_sim.devices.engine import Engine
from remoe_sim.devices.engine import engine as find_engine
from remoe_sim.devices.host import Host
from remoe_sim.devices.host import host as find_host
from remoe_sim.devices.link import doubts
from remoe_sim.devices.storage import Storage
from remoe_sim.devices.storage import storage as find_storage
from remoe_sim.util.cards import card_names, is_path
from remoe_sim.util.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

PARTS = ("host", "storage", "engine")
JOIN = "+"  # between the cards of a machine in one name


def machine(
    device: str | Path | Device,
    host: str | Path | Host | None = None,
    storage: str | Path | Storage | None = None,
    engine: str | Path | Engine | None = None,
) -> Device:
    """Return what models run on, put together from cards.

    device: a name that `remoe-sim list devices` shows, the path of a card, or a Device; a name may bring the others
    along, as in "rtx-3090+desktop-ddr4-3200+llama.cpp"
    host, storage, engine: names that `remoe-sim list hosts`, `list storage` and `list engines` show, paths of cards, or
    such objects; those that the device's card names if they are not given

    Raises ValueError for unknown names, and for parts that do not go together.

    >>> machine("rtx-4090", host="desktop-ddr5-6000").parts["host"]
    'desktop-ddr5-6000'
    """
    given: dict[str, Any] = {"host": host, "storage": storage, "engine": engine}
    if isinstance(device, str) and JOIN in device and not is_path(device):
        device, *rest = device.split(JOIN)
        for name in rest:
            kind = next((one for one in PARTS if name in card_names(one)), None)
            if kind is None:
                raise unknown("host, storage or engine", name, [one for kind in PARTS for one in card_names(kind)])
            given[kind] = name if given[kind] is None else given[kind]
    made = assembled(device, **given)
    asked = [part for part in PARTS if given[part] is not None]
    own = JOIN.join([made.name, *(str(made.parts[part]) for part in asked)])
    return replace(made, name=own) if asked else made


def assembled(
    device: str | Path | Device,
    host: str | Path | Host | None = None,
    storage: str | Path | Storage | None = None,
    engine: str | Path | Engine | None = None,
) -> Device:
    """Return a device with a host, a storage and an engine, so that costs can be told.

    Of each that is not given the device's card names a default, unless the card has such numbers itself. What is given
    replaces what the device's card says. Raises ValueError for unknown names, for an engine that does not run on
    the device and for a host next to a device with unified memory, which is its own host.
    """
    machine = device if isinstance(device, Device) else find_device(device)
    if machine.unified and host is not None:
        raise ValueError(
            f"device '{machine.name}' has one memory for processor and accelerator, so it takes no host; leave out "
            "--host"
        )
    own_host = host if host is not None else machine.host_card or machine.default_host
    if own_host is not None:
        machine = _with_host(machine, own_host if isinstance(own_host, Host) else find_host(own_host), host is not None)
    own_storage = storage if storage is not None else machine.storage_card or machine.default_storage
    if own_storage is not None:
        found = own_storage if isinstance(own_storage, Storage) else find_storage(own_storage)
        machine = _with_storage(machine, found, storage is not None)
    own_engine = engine if engine is not None else machine.engine or machine.default_engine
    if own_engine is not None:
        machine = _with_engine(machine, own_engine if isinstance(own_engine, Engine) else find_engine(own_engine))
    return machine


def _with_host(machine: Device, host: Host, asked: bool) -> Device:
    read = machine.host_bandwidth_bytes_per_s
    if asked or read is None:
        machine = _without(machine, ("host_bandwidth_bytes_per_s",))
        read = host.bandwidth_bytes_per_s
    return replace(
        machine, host_card=host, host_bandwidth_bytes_per_s=read, unverified=_all(machine.unverified, host.unverified)
    )


def _with_storage(machine: Device, storage: Storage, asked: bool) -> Device:
    if asked or machine.storage is None:
        own = tuple(name for name in machine.facts if name.startswith("storage."))
        machine = replace(_without(machine, own), storage=storage.link)
        return replace(machine, storage_card=storage, unverified=_all(machine.unverified, storage.unverified))
    return replace(machine, storage_card=storage)


def _with_engine(machine: Device, engine: Engine) -> Device:
    if machine.kind not in engine.kinds:
        raise ValueError(
            f"engine '{engine.name}' runs on {', '.join(engine.kinds)}, but device '{machine.name}' is {machine.kind}; "
            "name another with --engine, such as generic"
        )
    taken = ("layer_s", "expert_s", "step_s")
    machine = _without(machine, tuple(name for name in taken if getattr(engine, name) is not None))
    if engine.share:
        machine = _without(machine, ("efficiency",))
    return replace(machine, engine=engine, unverified=_all(machine.unverified, engine.unverified))


def _without(machine: Device, names: Iterable[str]) -> Device:
    """The same without doubts about numbers of the device's card that others stand for."""
    names = set(names)
    if not names & machine.facts.keys():
        return machine
    before = set(doubts("device", machine.name, machine.facts))
    facts = {name: fact for name, fact in machine.facts.items() if name not in names}
    kept = [one for one in machine.unverified if one not in before]
    return replace(machine, unverified=(*doubts("device", machine.name, facts), *kept), facts=facts)


def _all(first: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return (*first, *(one for one in more if one not in first))
