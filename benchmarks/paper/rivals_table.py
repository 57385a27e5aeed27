"""The table and the figure of `rivals.py`, from rows as it keeps them in benchmarks/results/rivals.json."""

from __future__ import annotations

from typing import Any

import numpy as np

CAPACITIES = (4, 8, 16)


def name_of(row: dict[str, Any]) -> str:
    """What a row is called in tables."""
    return row["model"] if row["route"] is None else f"{row['model']} + {row['route']} {row['strength']:g}"


def markdown(rows: list[dict[str, Any]], architecture: str) -> str:
    """The table to read."""
    lines = [
        f"{architecture}. In brackets 95 % intervals of the difference to the original over requests; loss changes in "
        "nats per token. Hit rates: caches of that many experts per layer, emptied at each request.", "",
        "| texts | model and route | cache | loss | reuse | LRU 4 | LRU 8 | LRU 16 | Belady 8 | CV | MiB/token at 8 "
        "| changed slots | loop: closed, open |", "|---" * 13 + "|",
    ]  # fmt: skip
    for row in rows:
        loss = row["loss"]
        cells = [
            row["texts"], name_of(row), str(row["cache"] or ""),
            "" if loss is None else f"{loss['value']:.4f}, {100 * loss['change']:+.1f} %"
            + ("" if loss["low"] is None else f" ({loss['low']:+.4f} to {loss['high']:+.4f})"),
            _percent(row["reuse_rate"], True),
            *(_percent(row["hit_rate"]["lru"][size]) for size in CAPACITIES),
            _percent(row["hit_rate"]["belady"][8]),
            f"{row['load_balance_cv']['value']:.3f}",
            f"{(row['bytes_read_per_token'].get(8) or {}).get('value', np.nan) / 2**20:.2f}",
            "" if row["changed_share"] is None else f"{100 * row['changed_share']:.1f} %",
            ", ".join(f"{100 * row[one]:.1f} %" for one in ("closed_loop_hit_rate", "open_loop_hit_rate") if row[one]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(one: dict[str, Any], span: bool = False) -> str:
    text = f"{100 * one['value']:.1f} %"
    return text + (f" ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})" if span and one["low"] is not None else "")


def pareto(rows: list[dict[str, Any]], title: str, colours: dict[str, str]) -> Any:
    """Hit rate over loss at each cache size that routers follow: up and to the left is better."""
    import matplotlib.pyplot as plt

    sizes = sorted({row["cache"] for row in rows if row["cache"]})
    figure, panels = plt.subplots(1, len(sizes), figsize=(3.6 * len(sizes), 3.4), layout="constrained", squeeze=False)
    marks = {"cache-prior": "o", "max-rank": "^", "drop": "v", "substitute": "D", None: "s"}
    for axes, size in zip(panels[0], sizes, strict=True):
        here = [row for row in rows if row["texts"] == "test" and row["loss"] and row["cache"] in (None, size)]
        front = -1.0
        for row in sorted(here, key=lambda one: (one["loss"]["change"], -one["hit_rate"]["lru"][size]["value"])):
            x, y = 100 * row["loss"]["change"], 100 * row["hit_rate"]["lru"][size]["value"]
            colour = colours[{"ReMoE": "remoe", "three-stage": "third"}.get(row["model"], "original")]
            best, front = y > front, max(front, y)
            face = colour if best else colours["face"]
            axes.plot([x], [y], marks[row["route"]], ms=6, color=colour, markerfacecolor=face)
            text, above = (f"{row['strength']:g}", 4) if row["route"] else (row["model"], -11)
            axes.annotate(text, (x, y), (4, above), textcoords="offset points", fontsize=7, color=colours["ink"])
        axes.set(xlabel="change of loss, %", ylabel="LRU hit rate, %", title=f"{title}, {size} experts per layer")
        axes.margins(0.12)
    for name, mark in marks.items():
        panels[0][0].plot([], [], mark, color=colours["ink"], label=name or "no route", linestyle="none")
    figure.legend(loc="outside lower center", ncols=5, title="filled: no other is better in both", title_fontsize=7)
    return figure


def short_table(rows: list[dict[str, Any]]) -> str:
    """What a reader of benchmarks/paper/README.md sees: the recorded texts at 8 experts per layer."""
    lines = [
        "| | deepseek: loss | reuse | LRU 8 | CV | qwen: loss | reuse | LRU 8 | CV |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    here = [row for row in rows if row["texts"] == "test" and row["cache"] in (None, 8)]
    for name in dict.fromkeys(map(name_of, here)):
        cells = [name]
        for architecture in ("deepseek", "qwen"):
            (row,) = [one for one in here if name_of(one) == name and one["architecture"] == architecture]
            sizes = {str(size): one for size, one in row["hit_rate"]["lru"].items()}
            cells += [
                f"{100 * row['loss']['change']:+.1f} %",
                f"{100 * row['reuse_rate']['value']:.1f} %",
                f"{100 * sizes['8']['value']:.1f} %",
                f"{row['load_balance_cv']['value']:.2f}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
