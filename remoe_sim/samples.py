"""The traces that are installed with the package."""

from __future__ import annotations

from pathlib import Path

from remoe_sim.errors import unknown


def sample_path(name: str) -> Path:
    """Where the bundled trace `name` lies; ValueError with the names of all if there is none."""
    import remoe_sim.traces

    found = {path.stem: path for folder in remoe_sim.traces.__path__ for path in Path(folder).glob("samples/*.parquet")}
    if name not in found:
        raise unknown("sample", name, found)
    return found[name]
