"""What every answer in JSON begins with."""

from __future__ import annotations

import remoe_sim


def stamp(schema: str) -> dict[str, str]:
    """The schema, and the version that answered."""
    return {"schema": schema, "version": remoe_sim.__version__}
