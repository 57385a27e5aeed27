"""Real numbers in the cells of a policy's state, which are int64: the same 64 bits.

A view of the state as reals would be counted as a reference to it each time, which takes longer than what is done with
the number.
"""

from __future__ import annotations

import struct

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from remoe_sim.compile import config, kernel


@intrinsic
def _as_real(context, bits):
    return types.float64(types.int64), lambda context, builder, signature, given: builder.bitcast(
        given[0], ir.DoubleType()
    )


@intrinsic
def _as_bits(context, number):
    return types.int64(types.float64), lambda context, builder, signature, given: builder.bitcast(
        given[0], ir.IntType(64)
    )


if config.DISABLE_JIT:  # the same in plain Python

    def _as_real(bits):  # type: ignore[misc]
        return struct.unpack("d", struct.pack("q", bits))[0]

    def _as_bits(number):  # type: ignore[misc]
        return struct.unpack("q", struct.pack("d", number))[0]


@kernel
def real(state, row, column):
    return _as_real(state[row, column])


@kernel
def set_real(state, row, column, value):
    state[row, column] = _as_bits(value)
