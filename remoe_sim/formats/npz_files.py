"""The arrays of an npz file, never unpickled, each checked for type, shape and range when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.json_files import npy_values
from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source

LARGEST = 2**31 - 1


class NpzArrays:
    """What is in the archive of a source. Methods return None for an array that is not there."""

    def __init__(self, source: Source) -> None:
        self.source = source
        if not source.members:
            raise source.error("not an npz archive; write it with numpy.savez")
        try:
            with source.archive() as archive:
                self._arrays: dict[str, npt.NDArray[Any]] = {
                    name.removesuffix(".npy"): npy_values(archive.read(name)) for name in archive.namelist()
                }
        except Exception as error:  # a broken archive fails in many ways
            if isinstance(error, TraceError):
                raise
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise source.error(f"cannot be read as npz ({why}); write it with numpy.savez, without objects") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all arrays."""
        return tuple(self._arrays)

    def any(self, name: str) -> npt.NDArray[Any]:
        """An array of any type and shape."""
        return self._arrays[name]

    def error(self, name: str, text: str, row: int | None = None) -> TraceError:
        """A TraceError that names the file, the array and the row (along its first axis) if it is known."""
        place = f"array '{name}'" if row is None else f"array '{name}', row {row}"
        return self.source.error(f"{place}: {text}; correct it")

    def get(self, name: str, kinds: str, what: str, *shapes: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """An array whose dtype is of one of `kinds` and whose shape is one of `shapes` (any if there are none)."""
        array = self._arrays.get(name)
        if array is None:
            return None
        if array.dtype.kind not in kinds:
            raise self.error(name, f"holds {array.dtype}, expected {what}")
        if shapes and array.shape not in shapes:
            raise self.error(name, f"shape {array.shape}, expected {' or '.join(map(str, dict.fromkeys(shapes)))}")
        return array

    def whole(
        self, name: str, *shapes: tuple[int, ...], least: int = 0, most: int = LARGEST
    ) -> npt.NDArray[Any] | None:
        """An array of whole numbers from `least` to `most`, int64."""
        array = self.get(name, "iu", "whole numbers", *shapes)
        if array is None:
            return None
        wrong = np.argwhere((array < least) | (array > most))
        if wrong.size or (array.ndim == 0 and not least <= array <= most):
            place = tuple(wrong[0]) if array.ndim else ()
            row = int(place[0]) if place else None
            raise self.error(name, f"{array[place]} is not possible, expected {least} to {most}", row)
        return array.astype(np.int64)

    def text(self, name: str) -> str | None:
        """The text of an array without dimensions."""
        array = self.get(name, "U", "text", ())
        return None if array is None else str(array)

    def count(self, name: str) -> int | None:
        """The number, 1 or more, of an array without dimensions."""
        array = self.whole(name, (), least=1)
        return None if array is None else int(array)
