"""Names of arrays that many files use."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]

Ints = npt.NDArray[np.integer[Any]]
