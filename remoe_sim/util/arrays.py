"""Names of array types that several files use. A file adds a name of its own only for what its numbers mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # whose type of number is not known, or does not matter

Flags = npt.NDArray[np.bool_]

Longs = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Ints = npt.NDArray[np.integer[Any]]  # of any width

Reals = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]  # of any width
