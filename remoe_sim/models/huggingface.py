"""The shape of a model from its Hugging Face `config.json`.

Makers name the same thing differently, and some of it stands in their code only; what is known of a family's code is in
FAMILIES. The names are those of the configurations in `transformers`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from remoe_sim.models.attention import Attention, Compressed, DeltaNet, GroupedQueries, Latent, ShortConvolution
from remoe_sim.models.shape import Shape, check_layers, check_shape
from remoe_sim.util.input_files import UnsuitableError, read_text

MOST = 2**40  # of any number of a configuration
EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk")
FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size")
SHARED_COUNT = ("n_shared_experts", "moe_num_shared_experts")
# what the modelling code of a family has besides what its configuration says
FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek": {},
    "deepseek_v2": {},
    "deepseek_v3": {"router_bias": True},
    "deepseek_v4": {"router_bias": True},
    "ernie4_5_moe": {"router_bias": True},
    "glm4_moe": {"router_bias": True},
    "gpt_oss": {
        "router_bias": True, "expert_biases": True, "expert_type": "mxfp4", "bias": True, "output_bias": True,
        "sinks": True,
    },
    "granitemoe": {},
    "kimi_k2": {"router_bias": True},
    "lfm2_moe": {"router_bias": True, "norm": "head"},
    "llama4_text": {},
    "mixtral": {},
    "olmoe": {"norm": "all"},
    "phimoe": {"norm_bias": True, "head_bias": True, "bias": True, "output_bias": True},
    "qwen2_moe": {"bias": True, "shared_gate": True},
    "qwen3_5_moe_text": {"norm": "head", "gate": True, "shared_gate": True},
    "qwen3_moe": {"norm": "head"},
    "qwen3_next": {"norm": "head", "gate": True, "shared_gate": True},
}  # fmt: skip
OF_ATTENTION = ("bias", "output_bias", "sinks", "norm", "gate")
UNKNOWN_FAMILY = (
    "the family '{}' is not known here: biases and norms that only its code has are left out, "
    "under 0.1 % of the weights"
)


class Config:
    """A configuration under its various names; `where` is what messages call it."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def get(self, *names: str) -> Any:
        """The first of the names that has a value, else None."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def whole(self, *names: str, default: int | None = None) -> int:
        """A whole number; ValueError if there is none under any of the names and no default."""
        value = self.get(*names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
            raise ValueError(
                f"{self.where}: {' or '.join(names)} is {'missing' if value is None else repr(value)[:60]}; give the "
                "config.json of a Mixture-of-Experts model, or write a card"
            )
        return value

    def numbers(self, name: str) -> list[int] | None:
        """A list of whole numbers; None if it is not there."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(one) is int and 0 <= one <= MOST for one in value):
            raise ValueError(f"{self.where}: {name} is {str(value)[:60]}; give a list of whole numbers")
        return value


def shape_of_config(path: Path) -> Shape:
    """The shape that a `config.json` describes; ValueError for a file that is no such thing."""
    where = f"config '{path}'"
    try:
        values = json.loads(read_text(path, "config"))
    except UnsuitableError:
        raise
    except OSError as error:
        raise ValueError(
            f"{where} cannot be read ({error.strerror or error}); give the path of a config.json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {error}; give the config.json of a model") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds no JSON object; give the config.json of a model")
    inner = values.get("text_config")
    return shape_of_values({**values, **inner} if isinstance(inner, dict) else values, where, path.parent.name)


def shape_of_values(values: dict[str, Any], where: str, title: str) -> Shape:
    """The same from the configuration's values."""
    config = Config(values, where)
    family = str(config.get("model_type") or "unknown")
    known = FAMILIES.get(family, {})
    layers = config.whole("num_hidden_layers")
    check_layers(layers, where)
    width = config.whole("moe_intermediate_size", "intermediate_size")
    moe_layers = _moe_layers(config, layers)
    notes = [] if family in FAMILIES else [UNKNOWN_FAMILY.format(family)]
    if config.get("tie_word_embeddings", "tie_embedding") is None:
        notes.append("the configuration does not say whether the embedding is the output head, so they are two")
    if config.get("vision_config") or config.get("num_nextn_predict_layers", "mtp_num_hidden_layers"):
        notes.append("vision encoders and layers for multi-token prediction are left out")
    shape = Shape(
        title=title or family,
        layers=layers,
        hidden_size=config.whole("hidden_size"),
        vocabulary=config.whole("vocab_size"),
        moe_layers=moe_layers,
        experts=config.whole(*EXPERTS),
        top_k=config.whole(*TOP_K),
        expert_intermediate=width,
        attention=_attention(config, layers, {name: known[name] for name in OF_ATTENTION if name in known}),
        shared_intermediate=_shared(config, family, width),
        dense_intermediate=config.whole("intermediate_size_mlp", "intermediate_size", default=0)
        if len(moe_layers) < layers
        else 0,
        tied_embeddings=bool(config.get("tie_word_embeddings", "tie_embedding")),
        hyper_connections=config.whole("hc_mult", default=0),
        status="derived",
        source=where,
        notes=tuple(notes),
        **{name: value for name, value in known.items() if name not in OF_ATTENTION},
    )
    check_shape(shape, where)
    return shape


def _moe_layers(config: Config, layers: int) -> tuple[int, ...]:
    first = config.whole(*FIRST, default=0)
    step = config.whole("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq", default=1) or 1
    dense = config.numbers("mlp_only_layers") or []
    named = config.numbers("moe_layers")
    if named is not None:
        return tuple(sorted(set(named)))
    counted_from_one = config.get("interleave_moe_layer_step", "decoder_sparse_step") is not None
    return tuple(
        layer for layer in range(first, layers) if (layer + counted_from_one) % step == 0 and layer not in dense
    )


def _shared(config: Config, family: str, width: int) -> int:
    if family == "llama4_text":
        return width  # one shared expert, said in the code only
    count = config.whole(*SHARED_COUNT, default=0)
    return config.whole(*SHARED_WIDTH, default=count * width)


def _attention(config: Config, layers: int, extra: dict[str, Any]) -> tuple[Attention, ...]:
    heads = config.whole("num_attention_heads")
    ratios = config.numbers("compress_ratios")
    if ratios is not None and config.get("o_lora_rank"):
        return tuple(_compressed(config, heads, ratio) for ratio in ratios[:layers])
    if config.get("kv_lora_rank"):
        latent = Latent(
            heads,
            config.whole("q_lora_rank", default=0),
            config.whole("kv_lora_rank"),
            config.whole("qk_nope_head_dim"),
            config.whole("qk_rope_head_dim"),
            config.whole("v_head_dim"),
        )
        return (latent,) * layers
    return tuple(_layer(config, kind, heads, extra) for kind in _layer_types(config, layers))


def _layer_types(config: Config, layers: int) -> list[str]:
    """The kind of each layer, from the list where there is one, else from the rule of the family."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) >= layers:
        return [str(kind) for kind in kinds[:layers]]
    every = config.whole("full_attention_interval", default=0)
    if every:
        return ["full_attention" if (layer + 1) % every == 0 else "linear_attention" for layer in range(layers)]
    if config.get("attention_chunk_size"):
        every = config.whole("no_rope_layer_interval", default=4)
        return ["full_attention" if (layer + 1) % every == 0 else "chunked_attention" for layer in range(layers)]
    windowed = config.get("sliding_window") and config.get("use_sliding_window") is not False
    return ["sliding_attention" if windowed else "full_attention"] * layers


def _layer(config: Config, kind: str, heads: int, extra: dict[str, Any]) -> Attention:
    if kind in ("conv", "short_conv"):
        return ShortConvolution(config.whole("conv_L_cache"))
    if kind == "linear_attention":
        return DeltaNet(
            config.whole("linear_num_key_heads"),
            config.whole("linear_num_value_heads"),
            config.whole("linear_key_head_dim"),
            config.whole("linear_value_head_dim"),
            config.whole("linear_conv_kernel_dim"),
        )
    windows = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size", "full_attention": ""}
    if kind not in windows:
        raise ValueError(f"{config.where}: layers of kind '{kind}' are not known here; write a card for this model")
    settings = {"bias": bool(config.get("attention_bias", "qkv_bias", "use_bias")), **extra}
    if config.get("use_qk_norm") and config.get("model_type") != "llama4_text":  # there it has no weights
        settings["norm"] = "head"
    return GroupedQueries(
        heads,
        config.whole("num_key_value_heads", default=heads),
        config.whole("head_dim", default=config.whole("hidden_size") // max(heads, 1)),
        config.whole(windows[kind]) if windows[kind] else 0,
        **settings,
    )


def _compressed(config: Config, heads: int, ratio: int) -> Compressed:
    indexed = ratio == 4
    return Compressed(
        heads,
        config.whole("head_dim"),
        config.whole("q_lora_rank"),
        config.whole("o_groups"),
        config.whole("o_lora_rank"),
        config.whole("sliding_window"),
        ratio,
        config.whole("index_n_heads") if indexed else 0,
        config.whole("index_head_dim") if indexed else 0,
    )
