"""Names as people have them: those of files, of Hugging Face and of Ollama, with the quantisation in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from remoe_sim.util.cards import card_names

_QUANT = re.compile(
    r"(?:^|[-_.:/])((?:ud-)?i?q\d(?:_[0-9a-z]+)*|bf16|fp16|f16|mxfp4(?:_moe)?|nvfp4|fp8|int4|int8|awq|gptq|[2-8]-?bit)"
    r"(?=$|[-_.:/])"
)
_FILE = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$")
_SIZE = re.compile(r"(?:a|e)?\d+(?:\.\d+)?[bm]")  # 30b, a3b, 8x7b has one of its own
_BITS = {  # of dynamic quantisations, by the mixture whose size is nearest
    "q2_k_xl": "q2_k", "q3_k_xl": "q3_k_m", "q4_k_xl": "q4_k_m", "q5_k_xl": "q5_k_m", "q6_k_xl": "q6_k",
    "q8_k_xl": "q8_0", "q2_k_l": "q2_k", "q4_k_l": "q4_k_m", "q5_k_l": "q5_k_m", "q6_k_l": "q6_k",
}  # fmt: skip
_FOUR_BITS = {"int4": "int4-g128"}


@dataclass(frozen=True)
class Named:
    """What a name says. card: of the model; quant: None if it names none; remarks: what was taken for what."""

    card: str
    quant: str | None
    remarks: tuple[str, ...]


def named(text: str) -> Named | None:
    """The card and the quantisation that a name means; None if it is like no card, or the path of a file.

    >>> named("Qwen3-30B-A3B-Instruct-2507-UD-Q4_K_XL.gguf").quant
    'q4_k_m'
    >>> named("qwen3:30b-a3b-q8_0").card
    'qwen3-30b-a3b'
    """
    if text.startswith(("/", ".", "~")) or text.endswith((".toml", ".json")):
        return None
    name = _FILE.sub("", re.split(r"[/\\]", text.strip().lower())[-1])
    found = _QUANT.search(name)
    quant, remark = (None, None) if found is None else _quant(found[1])
    rest = name if found is None else f"{name[: found.start()]}-{name[found.end() :]}"
    words = [word for word in re.split(r"[-_:]+", rest) if word]
    fitting = [card for card in card_names("model") if set(card.split("-")) <= set(words)]
    if not fitting:
        return None
    card = max(fitting, key=lambda one: (len(one.split("-")), one))
    others = [word for word in words if word not in card.split("-")]
    if any(_SIZE.fullmatch(word) for word in others):
        return None  # of another size
    taken = [f"'{text}' is taken for a {card}, which has its sizes if it is a variant of it"] if others else []
    return Named(card, quant, (*taken, *([remark] if remark else [])))


def _quant(text: str) -> tuple[str, str | None]:
    """The quantisation that is meant, and what differs."""
    if text.endswith("bit"):
        return f"mlx-{text[0]}bit", f"{text} is taken for MLX with groups of 64, as in mlx-{text[0]}bit"
    plain = text.removeprefix("ud-")
    name = _BITS.get(plain, _FOUR_BITS.get(plain, plain))
    if text.startswith("ud-") or plain in _BITS:
        return name, f"the sizes of {text} are taken to be those of {name}; the file itself tells them exactly"
    return name, None
