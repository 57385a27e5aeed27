"""A callback in machine code before one in Python: llama.cpp calls it for every tensor, thousands of times a token."""

from __future__ import annotations

import ctypes
from typing import Any

BEGINNING = tuple(b"ffn_moe_")
NEXT = tuple(b"tpw")  # of topk, probs and weights


def only_moe_tensors(callback: Any, library: Any) -> Any:
    """An evaluation callback that passes on to another what it hears of tensors that routing has.

    callback: that other one, of the type of llama_cpp; library: one with `ggml_get_name`. The callback and the result
    must be kept for as long as llama.cpp may call.
    """
    import numba
    from numba.np.numpy_support import carray

    beginning, following, letters = BEGINNING, NEXT, len(BEGINNING)
    name_of = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_uint8), ctypes.c_void_p)(("ggml_get_name", library))

    def heard(tensor: Any, ask: Any, data: Any) -> Any:
        name = carray(name_of(tensor), letters + 1)  # a name has room for 64
        for at in range(letters):
            if name[at] != beginning[at]:
                return False
        return name[letters] in following and callback(tensor, ask, data)

    # Not kept on disk like kernels: it holds addresses, which are others in every process.
    return numba.cfunc(numba.boolean(numba.types.voidptr, numba.boolean, numba.types.voidptr))(heard)
