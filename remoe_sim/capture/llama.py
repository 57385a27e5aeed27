"""A model in llama.cpp: loading a GGUF file, its tokens, and forward passes over several sequences."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from remoe_sim.capture.inputs import Prompt
    from remoe_sim.capture.llama_tensors import RoutingTensors

PASS_TOKENS = 512  # at most in one forward pass, as llama.cpp has it unless told otherwise
_ERROR = 4
_ALL_LAYERS = 2**31 - 1


@contextmanager
def loaded(path: Path, device: str) -> Iterator[LlamaModel]:
    """The model of a GGUF file on a device; ValueError for one that cannot be loaded."""
    import llama_cpp

    with _quiet() as said:
        settings = llama_cpp.llama_model_default_params()
        _place(settings, device)
        pointer = llama_cpp.llama_model_load_from_file(os.fsencode(path), settings)
        if not pointer:
            raise ValueError(f"llama.cpp cannot load '{path}'{_why(said)}; try it with llama.cpp itself")
        model = LlamaModel(pointer, path, device, said)
        try:
            yield model
        finally:
            model.close()


class LlamaModel:
    """What `loaded` yields. `open` comes before `decode`."""

    def __init__(self, pointer: Any, path: Path, device: str, said: list[str]) -> None:
        import llama_cpp

        self._api, self._model, self._path, self._device, self._said = llama_cpp, pointer, path, device, said
        self._vocabulary = llama_cpp.llama_model_get_vocab(pointer)
        self._words = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self._context: Any = None
        self._batch: Any = None

    def tokens(self, prompt: Prompt) -> tuple[list[int], int]:
        """The token ids of a request, and how many of them are a prompt that something follows."""
        if prompt.messages is None:
            ids = self._tokens(prompt.text or "", special=True)
        else:
            ids = self._tokens(self._in_template(prompt), special=False)
        known = 0
        if prompt.completion is not None:
            known = len(ids)
            ids += self._tokens(prompt.completion, special=False)
        if not ids:
            raise ValueError(f"{prompt.where}: not one token is in it; give a longer text, or remove it")
        return ids, known

    def open(self, tensors: RoutingTensors, sequences: int, cells: int) -> None:
        """Make room for so many sequences that together have so many tokens, and find the routers."""
        most = self._api.llama_max_parallel_sequences()
        if sequences > most:
            raise ValueError(f"batch {sequences} is more than llama.cpp runs at once; give {most} or less")
        settings = self._api.llama_context_default_params()
        settings.n_ctx = cells
        settings.n_batch = settings.n_ubatch = max(PASS_TOKENS, sequences)
        settings.n_seq_max = sequences
        settings.kv_unified = True
        settings.n_threads = max((os.cpu_count() or 1) // 2, 1)
        settings.n_threads_batch = os.cpu_count() or 1
        settings.offload_kqv = settings.op_offload = self._device != "cpu"
        settings.cb_eval = tensors.callback
        self._tensors = tensors
        self._context = self._api.llama_init_from_model(self._model, settings)
        if not self._context:
            why = _why(self._said)
            raise ValueError(f"llama.cpp has no room for {cells} tokens of context{why}; give shorter texts")
        self._batch = self._api.llama_batch_init(settings.n_batch, 0, 1)
        self._run([(0, 0, 0)])
        tensors.choose()
        self.forget()

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> list[int]:
        """Compute tokens, each a sequence's number, its position there and its id; how many each pass had."""
        self._run(rows)
        return self._tensors.passed(len(rows))

    def likeliest(self, row: int) -> int | None:
        """The token that a row of the last `decode` is followed by; None if that is an end."""
        logits = np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, row), (self._words,))
        token = int(logits.argmax())
        return None if self._api.llama_vocab_is_eog(self._vocabulary, token) else token

    def forget(self) -> None:
        """Empty all sequences."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def close(self) -> None:
        """Free everything."""
        if self._batch is not None:
            self._api.llama_batch_free(self._batch)
        if self._context:
            self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def _run(self, rows: Sequence[tuple[int, int, int]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, (sequence, position, token) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.seq_id[at][0] = token, position, 1, sequence
            batch.logits[at] = 1  # else the last layer is computed for the last token of a prompt only
        with _interrupts_held():
            failed = self._api.llama_decode(self._context, batch)
        self._tensors.check()
        if failed:
            raise ValueError(f"llama.cpp cannot evaluate '{self._path}' (code {failed}){_why(self._said)}")

    def _tokens(self, text: str, special: bool) -> list[int]:
        data = text.encode()
        count = len(data) + 8
        while True:
            ids = (self._api.llama_token * count)()
            found = self._api.llama_tokenize(self._vocabulary, data, len(data), ids, count, special, True)
            if found >= 0:
                return list(ids[:found])
            count = -found

    def _in_template(self, prompt: Prompt) -> str:
        template = self._api.llama_model_chat_template(self._model, None)
        if not template:
            raise ValueError(f"{prompt.where}: the model has no chat template; give a prompt instead of messages")
        from jinja2 import TemplateError
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        begin, end = (
            self._api.llama_vocab_get_text(self._vocabulary, token).decode() if token >= 0 else ""
            for token in (self._api.llama_vocab_bos(self._vocabulary), self._api.llama_vocab_eos(self._vocabulary))
        )
        try:
            formatted = Jinja2ChatFormatter(template.decode(), eos_token=end, bos_token=begin)(messages=prompt.messages)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{prompt.where}: the model's chat template does not take the messages ({why})") from None
        return str(formatted.prompt)


def _place(settings: Any, device: str) -> None:
    """Set where the layers of a model go."""
    import llama_cpp

    from remoe_sim.capture.inputs import DEVICES

    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and (kind != "cuda" or not number.isdigit())):
        raise ValueError(f"device '{device}' is unknown; give {DEVICES}")
    there = llama_cpp.llama_supports_gpu_offload()
    if kind in ("cuda", "mps") and not there:
        raise ValueError(
            f"device '{device}' is not for this llama-cpp-python, which was built without it; give cpu or auto"
        )
    settings.n_gpu_layers = _ALL_LAYERS if there and kind != "cpu" else 0
    if number:
        settings.split_mode, settings.main_gpu = llama_cpp.LLAMA_SPLIT_MODE_NONE, int(number)


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """The errors that llama.cpp names, instead of all it has to say on the terminal."""
    import llama_cpp

    said: list[str] = []

    def hear(level: int, text: bytes, _: Any) -> None:
        if level == _ERROR:
            said.append(text.decode(errors="replace"))

    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    listener = llama_cpp.llama_log_callback(hear)
    llama_cpp.llama_log_set(listener, None)
    try:
        yield said
    finally:
        llama_cpp.llama_log_set(before, data)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C has its effect behind the block: ctypes would print it and go on where it falls into a callback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda *given: held.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held and callable(before):
        before(*held[0])


def _why(said: Sequence[str]) -> str:
    """The cause that llama.cpp named, in brackets: the first line is nearest to it."""
    causes = [line.partition("error loading model: ")[2] or line for line in "".join(said).splitlines() if line.strip()]
    return f" ({causes[0].strip()})" if causes else ""
