"""Makes `demo.parquet`, a small synthetic trace that many tests replay: 12 MoE layers of 32 experts, top-4, 8 requests.

    python -m tests.support.demo_trace tests/support/demo.parquet

A token's score of an expert is the sum of three normal variables: how popular the expert is in its layer (fixed), how
well it fits the request (drawn once per request) and what the text is about just now (a first-order autoregressive
process over positions). The experts of a decision are those with the largest scores, in that order.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

import remoe_sim

SEED = 20260101
LAYERS, EXPERTS, TOP_K = 13, 32, 4
MOE_LAYERS = tuple(range(1, LAYERS))  # the first layer is dense
PROMPT_TOKENS = (24, 57, 33, 18, 46, 29, 61, 38)  # of each request
DECODE_TOKENS = (160, 112, 192, 128, 144, 176, 104, 168)
POPULARITY, REQUEST, CONTEXT = 0.35, 0.4, 1.0  # standard deviations of the three parts of a score
MEMORY = 0.45  # correlation of the context part between adjacent tokens

# An expert of three 2048 x 768 matrices in GGUF Q4_K, and the same with its down projection in Q6_K.
SMALL, LARGE = 2_654_208, 3_059_712
LARGE_LAYERS = (3, 6, 9, 11, 12)  # by llama.cpp's rule for Q4_K_M and 13 layers
DENSE_FIRST, DENSE_OTHER = 24_576_000, 12_288_000  # bytes, round figures of the right order


def scores(rng: np.random.RandomState, tokens: int, popularity: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64[tokens, MoE layers, experts]: scores of one request."""
    fit = popularity + REQUEST * rng.standard_normal(popularity.shape)
    context = rng.standard_normal((tokens, *popularity.shape))
    for token in range(1, tokens):
        context[token] = MEMORY * context[token - 1] + np.sqrt(1 - MEMORY**2) * context[token]
    return fit + CONTEXT * context


def make() -> remoe_sim.Trace:
    """The trace, always the same."""
    rng = np.random.RandomState(SEED)  # a stream that NumPy never changes
    popularity = POPULARITY * rng.standard_normal((len(MOE_LAYERS), EXPERTS))
    lengths = [prompt + decode for prompt, decode in zip(PROMPT_TOKENS, DECODE_TOKENS, strict=True)]
    all_scores = np.concatenate([scores(rng, tokens, popularity) for tokens in lengths])
    chosen = np.argsort(-all_scores, axis=2)[:, :, :TOP_K].astype(np.uint16)
    position = np.concatenate([np.arange(tokens) for tokens in lengths])
    decode = np.concatenate([np.arange(n) >= prompt for n, prompt in zip(lengths, PROMPT_TOKENS, strict=True)])
    new_step = decode | (position == 0)  # a prompt is one step, a decode token is one
    model = remoe_sim.Model(
        experts=(EXPERTS,) * len(MOE_LAYERS),
        top_k=(TOP_K,) * len(MOE_LAYERS),
        name="synthetic-12x32-top4",
        layers=LAYERS,
        expert_bytes=tuple(LARGE if layer in LARGE_LAYERS else SMALL for layer in MOE_LAYERS),
        dense_bytes=(DENSE_FIRST, *(DENSE_OTHER,) * len(MOE_LAYERS)),
        quant="q4_k_m",
    )
    return remoe_sim.Trace(
        request=np.repeat(np.arange(len(lengths)), lengths).astype(np.int32),
        position=position.astype(np.int32),
        step=(np.cumsum(new_step) - 1).astype(np.int32),
        phase=decode.astype(np.uint8),
        layer_numbers=MOE_LAYERS,
        model=model,
        source=remoe_sim.InMemory([remoe_sim.Decisions(chosen[:, at].copy()) for at in range(len(MOE_LAYERS))]),
        origin={"format": "synthetic", "path": "demo_trace.py", "sha256": None},
        notes=f"synthetic, seed {SEED}: not recorded from any model",
    )


if __name__ == "__main__":
    remoe_sim.write_trace(make(), sys.argv[1])
