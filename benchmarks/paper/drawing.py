"""Figures of this folder: one look, each on a light and on a dark background, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BACKGROUNDS = {"light": ("white", "#222222", "#8a8a8a"), "dark": ("#15181c", "#e8e8e8", "#8a8f98")}
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; blue lighter where it is dark.
COLOURS = {
    "light": {"original": "#0072B2", "remoe": "#D55E00", "third": "#009E73"},
    "dark": {"original": "#56B4E9", "remoe": "#E69F00", "third": "#2ec79b"},
}
OUTPUT = Path(__file__).resolve().parents[2] / "build" / "paper"  # ignored by git


def save(draw: Callable[[dict[str, str]], Any], folder: Path, name: str) -> list[str]:
    """Draw a figure once per background with `draw(colours)`; the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for background, (face, ink, grey) in BACKGROUNDS.items():
        look = {
            "figure.facecolor": face, "savefig.facecolor": face, "axes.facecolor": face, "text.color": ink,
            "axes.edgecolor": grey, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "font.size": 9,
            "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
            "legend.frameon": False, "legend.fontsize": 8, "svg.hashsalt": name, "svg.fonttype": "none",
        }  # fmt: skip
        with plt.rc_context(look):
            figure = draw({**COLOURS[background], "ink": ink, "grey": grey, "face": face})
            for suffix in ("svg", "png"):
                names.append(f"{name}-{background}.{suffix}")
                plain = {"Date": None} if suffix == "svg" else None
                figure.savefig(folder / names[-1], dpi=150, metadata=plain)
            plt.close(figure)
    return names
