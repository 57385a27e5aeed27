"""Models by name, by card, by Hugging Face `config.json` and by GGUF file, with the sizes of a quantisation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from remoe_sim.models.names import named
from remoe_sim.models.quantisation import quantise
from remoe_sim.models.shape import Shape, shape_of_card
from remoe_sim.models.sizes import Context, SizedModel, check_top_k, size
from remoe_sim.util.cards import card_names, is_path, read_card


def model(name_or_path: str | Path, quant: str | None = None, top_k: int | None = None) -> SizedModel:
    """The sizes of a model in a quantisation.

    name_or_path: a name that `remoe-sim list models` shows, the path of a card (`.toml`), of a Hugging Face
    `config.json` or of a GGUF file (any part of a split one), or the name of such a file or of an Ollama model, which
    may say the quantisation, as in "Qwen3-30B-A3B-UD-Q4_K_XL.gguf" or "qwen3:30b-a3b-q8_0", or a place on the Hub,
    hf://org/name or hf://org/name/file.gguf, of which only the configuration or the header is fetched; quant: `bf16`
    unless given, and nothing for a GGUF file, which has its own; top_k: experts per token, if not the model's own
    number. Raises ValueError for an unknown name or quantisation, a file that cannot be used and a top_k beyond the
    experts.
    """
    if isinstance(name_or_path, str) and name_or_path.lower().startswith("hf://"):
        from remoe_sim.models.hub import fetch

        with TemporaryDirectory() as folder:
            fetched = fetch(name_or_path, Path(folder))
            sized = model(fetched.path, quant, top_k)
            notes = sized.notes
            if fetched.weights is not None:
                whole = model(fetched.path).total_bytes
                notes += (f"the published weights take {fetched.weights:,} bytes; in bf16 the shape takes {whole:,}",)
        return replace(sized, source=fetched.source, notes=notes)
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and name_or_path not in card_names("model") and not path.exists():
        found = named(name_or_path)  # None for a path
        if found is not None:
            sized = model(found.card, found.quant if quant is None else quant, top_k)
            return replace(sized, unverified=(*found.remarks, *sized.unverified))
    if path.suffix.lower() == ".gguf":
        from remoe_sim.models.gguf import size_gguf

        if quant is not None:
            raise ValueError(f"'{path}' is quantised already; leave out the quantisation '{quant}', its own is taken")
        return size_gguf(path, top_k)
    if path.suffix.lower() == ".json":
        from remoe_sim.models.huggingface import shape_of_config

        name, shape = path.parent.name or path.stem, shape_of_config(path)
    else:
        name, card = read_card("model", name_or_path)
        shape = shape_of_card(card, f"model card '{name_or_path}'" if is_path(name_or_path) else f"model card '{name}'")
    return size_shape(name, shape, "bf16" if quant is None else quant, top_k)


def size_shape(name: str, shape: Shape, quant: str, top_k: int | None = None) -> SizedModel:
    """The sizes of a model of that shape in a quantisation."""
    tensors = shape.tensors()
    stored = quantise(quant, shape, tensors)
    hidden = shape.hidden_size
    return size(
        tensors,
        (kind.bytes_of(tensor) for tensor, kind in zip(tensors, stored.types, strict=True)),
        [Context(one.kv_bytes_per_token, one.window, one.state_bytes(hidden)) for one in shape.attention],
        check_top_k(top_k, shape.top_k, shape.experts),
        name=name,
        title=shape.title,
        quant=stored.name,
        layers=shape.layers,
        moe_layers=shape.moe_layers,
        experts=shape.experts,
        hidden_size=hidden,
        expert_intermediate=shape.expert_intermediate,
        vocabulary=shape.vocabulary,
        tied_embeddings=shape.tied_embeddings,
        published_parameters=shape.published_parameters,
        published_active_parameters=shape.published_active_parameters,
        status=shape.status,
        source=shape.source,
        unknown=(),
        unverified=shape.unverified,
        assumptions=stored.assumptions,
        notes=shape.notes,
    )
