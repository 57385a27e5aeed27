"""What nobody has checked or what is not known of the cards behind times that were computed before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NO_CARD = (
    "the model has no card, so its sizes are those of the trace: output head, KV cache and arithmetic are not known "
    "and not counted; name a card with --model to count them"
)


def of_rows(frame: pd.DataFrame) -> list[str]:
    """Sentences about the cards behind the times of a sweep's rows; of cards that are not here that they are not."""
    if "device" not in frame or "tpot_ms_mean" not in frame:
        return []
    rows = frame[frame["device"].notna()]
    found: dict[str, None] = {}
    for name, model, quant in rows[["device", "device_model", "quant"]].drop_duplicates().itertuples(index=False):
        found |= dict.fromkeys((*_device(name), *_model(model, quant)))
    return list(found)


def _device(name: str) -> tuple[str, ...]:
    from remoe_sim.devices.machine import machine

    try:
        return machine(name).unverified
    except ValueError:
        return (f"device {name}: its card is not here, so what of it is assumed is not known; the sweep said it",)


def _model(name: Any, quant: Any) -> tuple[str, ...]:
    from remoe_sim.models.model import model

    if not isinstance(name, str):
        return (NO_CARD,)
    try:
        found = model(name, quant)
    except ValueError:
        return (NO_CARD,)
    return (*found.unverified, *found.unknown)
