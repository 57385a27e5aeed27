"""The types that weights are stored in: how many columns make a block, and how many bytes a block takes.

GGUF types: ggml's block structures, as the package `gguf` lists them (`GGML_QUANT_SIZES`). Rows are stored one after
the other, so a block never crosses a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ROUTED, SHARED, DENSE, EXPERT_BIAS, EMBEDDING, HEAD = "routed", "shared", "dense", "expert bias", "embedding", "head"


@dataclass(frozen=True)
class Tensor:
    """A weight. role: what quantisation rules go by, `vector` for norms, biases and other small things.

    rows, columns: a row is what one output needs, columns are as many as there are inputs; count: how many of the same
    kind are stored together (experts, heads); layer: None outside of layers; part: who uses it, see ROUTED and the
    others.
    """

    role: str
    rows: int
    columns: int
    layer: int | None = None
    part: str = DENSE
    count: int = 1

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        return self.rows * self.columns * self.count

    @property
    def multiplied(self) -> bool:
        """Whether a token is multiplied with it as with a matrix."""
        return self.role != VECTOR and self.part not in (EMBEDDING, EXPERT_BIAS)


VECTOR, ROUTER = "vector", "router"


@dataclass(frozen=True)
class TensorType:
    """block: columns per block; block_bytes: bytes of a block, a fraction only where a mean is all that is known."""

    name: str
    block: int
    block_bytes: float

    @property
    def bits(self) -> float:
        """Bits per weight."""
        return 8 * self.block_bytes / self.block

    def bytes_of(self, tensor: Tensor) -> int:
        """Bytes of a tensor in this type; rows are filled up to whole blocks."""
        return tensor.count * math.ceil(tensor.rows * -(-tensor.columns // self.block) * self.block_bytes)


_SIZES = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "fp8": (1, 1), "int8": (1, 1), "nvfp4": (16, 9), "mxfp4": (32, 17),
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34),
    "q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210),
    "iq2_xxs": (256, 66), "iq2_xs": (256, 74), "iq2_s": (256, 82), "iq3_xxs": (256, 98), "iq3_s": (256, 110),
    "iq4_nl": (32, 18), "iq4_xs": (256, 136),
}  # fmt: skip
TYPES = {name: TensorType(name, *size) for name, size in _SIZES.items()}
