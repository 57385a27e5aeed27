"""Read the tensors of routers while llama.cpp computes, and no other tensors."""

from __future__ import annotations

import ctypes
import re
import sys
from typing import Any

import numpy as np

from remoe_sim.util.arrays import Array

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


EXPERTS, WEIGHTS, PROBS = "topk", "weights", "probs"
# Gate weights have several names on their way: the last that a layer has is of those that it multiplies with.
_NAMED = re.compile(r"ffn_moe_(topk|probs|weights|weights_softmax|weights_norm|weights_scaled)-(\d+)")
_JOINED = 256  # so many arrays become one: one for each pass and layer would be millions
_VALUE_BYTES = 4  # of an int32 and of a float32


class Column:
    """An array whose rows come in pieces."""

    def __init__(self) -> None:
        self._joined: list[Array] = []
        self._pieces: list[Array] = []

    def add(self, rows: Array) -> None:
        """Append rows."""
        self._pieces.append(rows)
        if len(self._pieces) >= _JOINED:
            self._joined, self._pieces = [*self._joined, np.concatenate(self._pieces)], []

    def whole(self) -> Array:
        """All rows."""
        return np.concatenate([*self._joined, *self._pieces])


class RoutingTensors:
    """An evaluation callback for llama.cpp, and what it has read: `columns[EXPERTS]`, int32[tokens, k], `[WEIGHTS]`,
    float32[tokens, k], and if asked for `[PROBS]`, float16[tokens, E], each by the number of the MoE layer.

    llama.cpp shows every tensor of its graph and asks whether it is wanted, computes up to one that is, and shows that
    one again. In the first pass nothing is wanted; `choose` then picks tensors by the names that were seen.

    scores: the probs of some layer are scores that were divided by their sum, not a softmax.
    """

    def __init__(self, probs: bool) -> None:
        import llama_cpp

        self._ggml = _Functions()
        self._kinds = (EXPERTS, WEIGHTS, PROBS) if probs else (EXPERTS, WEIGHTS)
        self._seen: list[str] = []
        self._wanted: dict[bytes, tuple[str, int]] | None = None
        self._error: BaseException | None = None
        self._rows: dict[int, list[int]] = {}
        self._experts = 0
        self.columns: dict[str, dict[int, Column]] = {kind: {} for kind in self._kinds}
        self.scores = False
        kind = llama_cpp.ggml_backend_sched_eval_callback
        self._listening = kind(self._evaluated)
        self._filter = only_moe_tensors(self._listening, self._ggml.library)
        self.callback = kind(self._filter.address)

    def choose(self) -> None:
        """Which tensors to read, by the names of the first pass; ValueError where these do not tell."""
        last: dict[tuple[str, int], str] = {}
        for name in self._seen:
            if match := _NAMED.fullmatch(name):
                key = (match[1].partition("_")[0], int(match[2]))
                if key in last and key[0] == EXPERTS:
                    raise ValueError(f"layer {key[1]} routes a token more than once; such models cannot be captured")
                last[key] = name
        layers = sorted(layer for kind, layer in last if kind == EXPERTS)
        if not layers:
            raise ValueError("llama.cpp showed no router of the model; give the file of a Mixture-of-Experts model")
        for layer in layers:
            for kind in self._kinds:
                if (kind, layer) not in last:
                    raise ValueError(f"layer {layer} shows no {kind} of its router; such models cannot be captured")
        self._wanted = {name.encode(): key for key, name in last.items() if key[0] in self._kinds and key[1] in layers}

    def passed(self, tokens: int) -> list[int]:
        """How many tokens each forward pass had in which so many were computed; ValueError where a layer did not route
        just these."""
        every, self._rows = self._rows, {}
        for layer, rows in sorted(every.items()):
            if sum(rows) != tokens:
                raise ValueError(
                    f"layer {layer} routed {sum(rows)} tokens of {tokens}; only models that route every token once can "
                    "be captured"
                )
        return next(iter(every.values()))

    def check(self) -> None:
        """Raise what was raised while llama.cpp evaluated."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _evaluated(self, tensor: int, ask: bool, _: Any) -> bool:
        try:  # ctypes prints what is raised in here and goes on, even when it is an interrupt
            name = self._ggml.name(tensor)
            if self._wanted is None:
                self._seen.append(name.decode(errors="replace"))
                return False
            found = self._wanted.get(name)
            if found is None or self._error is not None:
                return False
            if ask and found[0] == EXPERTS:  # still there when the weights are, as the experts come to use after that
                self._experts = tensor
                return False
            if not ask:
                self._keep(tensor, *found)
        except BaseException as error:
            self._error = self._error or error
        return self._error is None

    def _keep(self, tensor: int, kind: str, layer: int) -> None:
        rows = self._ggml.rows(self._experts if kind == WEIGHTS else tensor)
        if kind == PROBS:
            self._add(PROBS, layer, self._distribution(tensor, rows))
            return
        self._rows.setdefault(layer, []).append(rows)
        self._add(EXPERTS, layer, self._table(self._experts, rows, np.int32))
        self._add(WEIGHTS, layer, self._table(tensor, rows, np.float32))

    def _add(self, kind: str, layer: int, rows: Array) -> None:
        self.columns[kind].setdefault(layer, Column()).add(rows)

    def _distribution(self, tensor: int, rows: int) -> Array:
        """float16[n, E] that sum to one. What llama.cpp calls probs is a softmax, or scores, or still the logits."""
        values = self._table(tensor, rows, np.float32)
        operation = self._ggml.operation(tensor)
        if operation != b"SOFT_MAX":
            if operation in (b"SIGMOID", b"SQRT"):
                self.scores = True
            else:
                values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        return values.astype(np.float16)

    def _table(self, tensor: int, rows: int, dtype: type[np.generic]) -> Array:
        """A tensor as a table. Its rows need not follow one another: the top k are the beginning of rows of all experts
        in order. How far they lie apart shows in the bytes from the first value to the last."""
        nbytes = self._ggml.nbytes(tensor)
        columns = self._ggml.values(tensor) // rows
        apart = (nbytes - columns * _VALUE_BYTES) // (rows - 1) if rows > 1 else nbytes
        buffer = np.empty(nbytes, np.uint8)
        self._ggml.get(tensor, buffer.ctypes.data, 0, nbytes)
        return np.ndarray((rows, columns), dtype, buffer, strides=(apart, _VALUE_BYTES)).copy()


class _Functions:
    """Functions of ggml, which `llama_cpp` has no bindings of. None of them needs the layout of a tensor, which
    changes from version to version."""

    def __init__(self) -> None:
        import llama_cpp.llama_cpp

        # Where it is not Windows a library also finds what is in those that it was linked with.
        self.library = library = ctypes.CDLL("ggml-base.dll") if sys.platform == "win32" else llama_cpp.llama_cpp._lib
        one = (ctypes.c_void_p,)

        def function(name: str, result: Any, arguments: tuple[Any, ...] = one) -> Any:
            return ctypes.PYFUNCTYPE(result, *arguments)((name, library))

        self.name = function("ggml_get_name", ctypes.c_char_p)
        self.operation = function("ggml_op_desc", ctypes.c_char_p)
        self.rows = function("ggml_nrows", ctypes.c_int64)
        self.values = function("ggml_nelements", ctypes.c_int64)
        self.nbytes = function("ggml_nbytes", ctypes.c_size_t)
        self.get = function(
            "ggml_backend_tensor_get", None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
        )
