"""Kinds of attention, and what stands in for it: the weights, and what is kept per token of the context.

Each class is a kind; its fields are the entries of a card's `[[attention]]` table. Fields with a default may be left
out.
"""

from __future__ import annotations

from dataclasses import dataclass

from remoe_sim.models.tensors import VECTOR, Tensor

CACHE_BYTES = 2  # of a number in the KV cache: bf16 or fp16, what engines take unless told otherwise
STATE_BYTES = 4  # of a number in a recurrent state: fp32


@dataclass(frozen=True)
class Attention:
    """What all kinds have in common; sizes are of one layer."""

    def tensors(self, hidden: int) -> list[Tensor]:
        """The weights, for a model of width `hidden`, without layer numbers."""
        raise NotImplementedError

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes that the context grows by with each token."""
        return 0

    def state_bytes(self, hidden: int) -> int:
        """Bytes that are kept for a sequence however long it is."""
        return 0

    @property
    def window(self) -> int | None:
        """How many of the last tokens are looked at; None for all."""
        return None

    @property
    def queries_per_key(self) -> int:
        """Query heads per key head, which GGUF mixtures go by; 1 where there are none."""
        return 1


@dataclass(frozen=True)
class GroupedQueries(Attention):
    """Multi-head attention with shared key heads (GQA; Ainslie et al. 2023); heads = kv_heads is plain attention.

    norm: `head` or `all` where queries and keys are normalised with weights per head or over all heads; gate: the
    output is gated by as many numbers, made with the queries; sinks: one learned number per head; bias: of queries,
    keys, values.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window_tokens: int = 0
    norm: str = ""
    bias: bool = False
    output_bias: bool = False
    sinks: bool = False
    gate: bool = False

    def tensors(self, hidden: int) -> list[Tensor]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        made = queries * (1 + self.gate)
        vectors = [made, keys, keys] if self.bias else []
        vectors += [hidden] if self.output_bias else []
        vectors += [self.heads] if self.sinks else []
        vectors += {"head": [self.head_dim] * 2, "all": [queries, keys]}.get(self.norm, [])
        return [
            Tensor("attn_q", made, hidden),
            Tensor("attn_k", keys, hidden),
            Tensor("attn_v", keys, hidden),
            Tensor("attn_output", hidden, queries),
            *(Tensor(VECTOR, 1, size) for size in vectors),
        ]

    @property
    def kv_bytes_per_token(self) -> float:
        return 2 * self.kv_heads * self.head_dim * CACHE_BYTES

    @property
    def window(self) -> int | None:
        return self.window_tokens or None

    @property
    def queries_per_key(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Latent(Attention):
    """Multi-head latent attention (MLA; DeepSeek-V2, section 2.1). q_lora_rank 0: queries are not compressed.

    Kept per token is the compressed key and value, and the rotary key that all heads share. gate: the output is gated
    by as many numbers, made from the layer's input.
    """

    heads: int
    q_lora_rank: int
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int
    gate: bool = False

    def tensors(self, hidden: int) -> list[Tensor]:
        queries = self.heads * (self.nope_head_dim + self.rope_head_dim)
        rank = self.q_lora_rank
        compressed = [Tensor("attn_q_a", rank, hidden), Tensor("attn_q_b", queries, rank), Tensor(VECTOR, 1, rank)]
        return [
            *(compressed if rank else [Tensor("attn_q", queries, hidden)]),
            Tensor("attn_kv_a", self.kv_lora_rank + self.rope_head_dim, hidden),
            Tensor(VECTOR, 1, self.kv_lora_rank),
            Tensor("attn_k_b", self.kv_lora_rank, self.nope_head_dim, count=self.heads),
            Tensor("attn_v_b", self.v_head_dim, self.kv_lora_rank, count=self.heads),
            Tensor("attn_output", hidden, self.heads * self.v_head_dim),
            *([Tensor("attn_gate", self.heads * self.v_head_dim, hidden)] if self.gate else []),
        ]

    @property
    def kv_bytes_per_token(self) -> float:
        return (self.kv_lora_rank + self.rope_head_dim) * CACHE_BYTES

    @property
    def queries_per_key(self) -> int:
        return self.heads


@dataclass(frozen=True)
class DeltaNet(Attention):
    """Gated delta rule (Yang et al. 2024): linear attention with a matrix per value head as its state."""

    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    kernel: int

    @property
    def _mixed(self) -> int:
        return 2 * self.key_heads * self.key_head_dim + self._values

    @property
    def _values(self) -> int:
        return self.value_heads * self.value_head_dim

    def tensors(self, hidden: int) -> list[Tensor]:
        return [
            Tensor("attn_qkv", self._mixed, hidden),
            Tensor("attn_gate", self._values, hidden),
            Tensor("ssm_ba", 2 * self.value_heads, hidden),
            Tensor("ssm_out", hidden, self._values),
            Tensor(VECTOR, self._mixed, self.kernel),
            *(Tensor(VECTOR, 1, size) for size in (self.value_heads, self.value_heads, self.value_head_dim)),
        ]

    def state_bytes(self, hidden: int) -> int:
        return (self._values * self.key_head_dim + self._mixed * (self.kernel - 1)) * STATE_BYTES


@dataclass(frozen=True)
class KimiDelta(Attention):
    """Kimi Delta Attention (Kimi Linear; arXiv 2510.26692, section 3): a delta rule whose decay is set per channel.

    The decay is made through a rank of head_dim. gate_rank: rank of the output gate, 0 for a full matrix.
    """

    heads: int
    head_dim: int
    kernel: int
    gate_rank: int

    def tensors(self, hidden: int) -> list[Tensor]:
        width, rank = self.heads * self.head_dim, self.gate_rank
        gate = [Tensor("attn_gate_a", rank, hidden), Tensor("attn_gate_b", width, rank)]
        return [
            *(Tensor(role, width, hidden) for role in ("attn_q", "attn_k", "attn_v")),
            Tensor("attn_output", hidden, width),
            *(gate if rank else [Tensor("attn_gate", width, hidden)]),
            Tensor("ssm_f_a", self.head_dim, hidden),
            Tensor("ssm_f_b", width, self.head_dim),
            Tensor("ssm_beta", self.heads, hidden),
            Tensor(VECTOR, 3 * width, self.kernel),
            *(Tensor(VECTOR, 1, size) for size in (width, self.heads, self.head_dim)),
        ]

    def state_bytes(self, hidden: int) -> int:
        width = self.heads * self.head_dim
        return (width * self.head_dim + 3 * width * (self.kernel - 1)) * STATE_BYTES


@dataclass(frozen=True)
class ShortConvolution(Attention):
    """Double-gated short convolution (LFM2): no attention at all, the last `kernel` − 1 tokens are its state."""

    kernel: int

    def tensors(self, hidden: int) -> list[Tensor]:
        return [
            Tensor("conv_in", 3 * hidden, hidden),
            Tensor("conv_out", hidden, hidden),
            Tensor(VECTOR, hidden, self.kernel),
        ]

    def state_bytes(self, hidden: int) -> int:
        return (self.kernel - 1) * hidden * STATE_BYTES


@dataclass(frozen=True)
class Compressed(Attention):
    """DeepSeek-V4: one key that is also the value, for all heads; a window, and one summary per `ratio` tokens.

    ratio 0: only the window. Where index_heads is not 0, a small indexer chooses which summaries are looked at, so that
    a step reads fewer of them than are kept. Summaries of overlapping stretches (ratio 4) take twice the weights.
    """

    heads: int
    head_dim: int
    q_lora_rank: int
    output_groups: int
    output_lora_rank: int
    window_tokens: int
    ratio: int = 0
    index_heads: int = 0
    index_head_dim: int = 0

    def tensors(self, hidden: int) -> list[Tensor]:
        queries, low = self.heads * self.head_dim, self.output_groups * self.output_lora_rank
        found = [
            Tensor("attn_q_a", self.q_lora_rank, hidden),
            Tensor("attn_q_b", queries, self.q_lora_rank),
            Tensor("attn_kv", self.head_dim, hidden),
            Tensor("attn_output_a", low, queries // self.output_groups),
            Tensor("attn_output_b", hidden, low),
            *(Tensor(VECTOR, 1, size) for size in (self.q_lora_rank, self.head_dim, self.heads)),
        ]
        if self.ratio:
            found += self._summary(hidden, self.head_dim)
        if self.index_heads:
            found += [
                Tensor("index_q", self.index_heads * self.index_head_dim, self.q_lora_rank),
                Tensor("index_weights", self.index_heads, hidden),
                *self._summary(hidden, self.index_head_dim),
            ]
        return found

    def _summary(self, hidden: int, width: int) -> list[Tensor]:
        made = width * (2 if self.ratio == 4 else 1)
        return [
            Tensor("compressor", made, hidden, count=2),
            Tensor(VECTOR, self.ratio, made),
            Tensor(VECTOR, 1, width),
        ]

    @property
    def kv_bytes_per_token(self) -> float:
        indexed = self.index_head_dim if self.index_heads else 0
        return (self.head_dim + indexed) * CACHE_BYTES / self.ratio if self.ratio else 0

    def state_bytes(self, hidden: int) -> int:
        return self.window_tokens * self.head_dim * CACHE_BYTES

    @property
    def queries_per_key(self) -> int:
        return self.heads


KINDS: dict[str, type[Attention]] = {
    "gqa": GroupedQueries,
    "mla": Latent,
    "delta-net": DeltaNet,
    "kda": KimiDelta,
    "short-convolution": ShortConvolution,
    "compressed": Compressed,
}
