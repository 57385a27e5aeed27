"""What was published about ReMoE (arXiv 2605.27081) that the scripts of this folder need.

All from a third-party note on the paper; the paper's abstract confirms the headline ones. Quantisation, size of the
cache and storage of the Jetson runs are not published, nor is the precision of the vLLM run.
"""

from __future__ import annotations

MODEL = "deepseek-v2-lite"
TOP_K = 6

EOR = {"original": 0.273, "remoe": 0.345}  # expert overlap rate of adjacent tokens
UNIQUE_HIT_RATE = {"original": 0.3187, "remoe": 0.3687}  # 6 experts per layer, LRU, emptied at each request
UNIQUE_MISSES = {"original": 0.8707e6, "remoe": 0.8068e6}  # the same runs
VLLM_TPOT_MS = {"original": 254.31, "remoe": 242.99}  # RTX 3090 on PCIe 3.0 x16, ShareGPT
VLLM_TOKENS_PER_SECOND = {"original": 3.58, "remoe": 3.88}  # the same runs
JETSON_TPOT_MS = {
    "ShareGPT": {"original": 554.69, "remoe": 306.27},
    "GSM8K": {"original": 613.73, "remoe": 346.04},
    "HumanEval": {"original": 672.68, "remoe": 337.61},
}  # Jetson Orin NX, llama.cpp


def change(pair: dict[str, float]) -> float:
    """From the original to ReMoE, as a fraction of the original."""
    return pair["remoe"] / pair["original"] - 1
