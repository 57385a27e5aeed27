"""Which column of somebody's table is what: the names that people give to requests, positions, layers and experts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# By what a column says, its names; our own is the first, and of several that are there the first counts.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "request": (
        "request", "request_id", "request_idx", "req", "req_id", "rid", "prompt_id", "prompt_index", "prompt_idx",
        "sequence", "sequence_id", "seq", "seq_id", "sample", "sample_id", "sample_idx", "conversation",
        "conversation_id", "example_id", "prompt_name", "prompt", "p",
    ),
    "position": (
        "position", "pos", "token_position", "token_pos", "token_idx", "token_index", "token_no", "token_num",
        "token_number", "tok_pos", "tok_idx", "position_id", "seq_pos", "token", "tok", "t",
    ),
    "phase": ("phase", "stage", "ph"),
    "layer": (
        "layer", "layer_id", "layer_idx", "layer_index", "layer_no", "layer_num", "layer_number", "moe_layer",
        "moe_layer_id", "block", "block_id", "blk", "il", "l",
    ),
    "experts": (
        "experts", "expert", "expert_ids", "expert_id", "expert_idx", "expert_index", "expert_indices", "topk_ids",
        "topk_indices", "topk_experts", "topk_idx", "top_k_ids", "top_k_experts", "top_k_indices", "top_k_index",
        "selected_experts", "selected_expert", "selected_ids", "selected", "chosen_experts", "chosen",
        "routed_experts", "routed_expert", "active_experts", "activated_experts", "expert_list", "eid", "exp", "ids",
        "indices", "topk", "top_k", "id", "e",
    ),
    "rank": ("slot", "rank", "expert_rank", "topk_rank", "slot_id", "slot_idx", "k_idx", "k"),
    "weights": (
        "weights", "weight", "gate_weights", "gate_weight", "expert_weights", "expert_weight", "topk_weights",
        "topk_weight", "top_k_weights", "routing_weights", "routing_weight", "router_weights", "router_weight",
        "router_scores", "router_score", "router_probs", "scores", "score", "selected_probabilities",
        "selected_probs", "topk_probs", "topk_scores", "expert_probs", "expert_scores", "probabilities", "probs",
        "prob", "gates", "gate", "gate_values", "gate_value", "w", "s",
    ),
    "step": ("step", "step_id", "step_idx", "forward_pass", "pass", "pass_id", "ubatch"),
    "token_id": ("token_id", "tok_id", "input_id", "ti"),
}  # fmt: skip
_COUNTED = re.compile(r"(.*?)_?(\d+)")


def plain(name: str) -> str:
    """A name as it is compared: `tokenIdx`, `Token-Idx` and `token idx` are all `token_idx`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


@dataclass(frozen=True)
class Columns:
    """The column of each kind by its name in the table, None where there is none.

    experts, weights: one name, or one for each slot in their order; counted: whether they are one for each slot (or, in
    a table of tokens, one for each layer); numbers: what is at the end of their names.
    """

    request: str | None = None
    position: str | None = None
    phase: str | None = None
    layer: str | None = None
    rank: str | None = None
    step: str | None = None
    token_id: str | None = None
    experts: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    counted: bool = False
    numbers: tuple[int, ...] = ()

    @property
    def used(self) -> set[str]:
        """The names of all columns that are something."""
        single = (self.request, self.position, self.phase, self.layer, self.rank, self.step, self.token_id)
        return {name for name in (*single, *self.experts, *self.weights) if name is not None}

    @property
    def is_rows(self) -> bool:
        """Whether there is what rows of decisions need: layers and experts."""
        return self.layer is not None and bool(self.experts)

    @property
    def called(self) -> dict[str, str]:
        """What the table calls what messages call request, position, slot and so on."""
        pairs = {"request": self.request, "position": self.position, "phase": self.phase, "layer": self.layer}
        pairs |= {"slot": self.rank, "step": self.step, "token_id": self.token_id}
        pairs["weight"] = self.weights[0] if self.weights else None
        return {ours: theirs for ours, theirs in pairs.items() if theirs is not None}


def parse_columns(given: str | Mapping[str, str | Sequence[str]] | None) -> tuple[tuple[str, str], ...]:
    """What `--columns` says, as (kind, column) pairs; a kind is empty where only columns are named, in their order.

    given: `position=token_idx,layer=l,experts=topk_ids`, the same as a dictionary, or `position,layer,e0,e1` for a
    table without column names. Raises ValueError for a kind that is none.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        pairs = [tuple(map(str.strip, part.rpartition("=")[::2])) for part in given.split(",") if part.strip()]
    else:
        pairs = [(kind, one) for kind, many in given.items() for one in ([many] if isinstance(many, str) else many)]
    found = []
    for kind, column in pairs:
        known = next((one for one, names in SYNONYMS.items() if kind and plain(kind) in names), None)
        if (kind and known is None) or not column:
            what = f"'{kind}' is not something that a column can say" if column else "a column's name is missing"
            raise ValueError(f"columns: {what}; give KIND=COLUMN, with the kinds {', '.join(SYNONYMS)}")
        found.append((known or "", column))
    if len({bool(kind) for kind, _ in found}) > 1:
        raise ValueError("columns: give KIND=COLUMN for each, or only the names of all columns in their order")
    return tuple(found)


def find_columns(names: Iterable[str], chosen: Sequence[tuple[str, str]] = ()) -> Columns:
    """What the columns of a table are, by their names and by what the user said of them (`parse_columns`).

    Raises ValueError for a chosen column that is not there.
    """
    there = list(dict.fromkeys(names))
    left = {plain(name): name for name in reversed(there)}
    single: dict[str, str] = {}
    many: dict[str, list[str]] = {}
    for kind, column in chosen:
        if not kind:
            continue
        fitting = [column] if column in there else _counted(there, plain(column))
        if not fitting:
            raise ValueError(f"there is no column '{column}' (there are {', '.join(there) or 'none'})")
        many.setdefault(kind, []).extend(fitting)
    taken = {name for several in many.values() for name in several}
    for kind, known in SYNONYMS.items():
        if kind in many:
            continue
        found = next((left[name] for name in known if name in left and left[name] not in taken), None)
        if kind in ("experts", "weights"):
            groups = [] if found in (known[0], known[1]) else [_counted(there, stem) for stem in known]
            group = [] if kind == "weights" and not many.get("experts") else max(groups, key=len, default=[])
            many[kind] = group or ([] if found is None else [found])
        elif found is not None:
            single[kind] = found
        taken.update([*many.get(kind, []), *([single[kind]] if kind in single else [])])
    experts, weights = many.pop("experts"), many.pop("weights")
    single |= {kind: several[0] for kind, several in many.items()}
    exact = plain(experts[0]) in SYNONYMS["experts"] or ("experts", experts[0]) in chosen if experts else True
    counted = len(experts) > 1 or not exact
    numbers = tuple(int(match[2]) for match in map(_COUNTED.fullmatch, map(plain, experts)) if match) if counted else ()
    return Columns(**single, experts=tuple(experts), weights=tuple(weights), counted=counted, numbers=numbers)


def _counted(names: Sequence[str], stem: str) -> list[str]:
    """The columns `stem0`, `stem1`, … (or `stem_0`, `stem[0]`, …), in the order of their numbers."""
    matches = [(match, name) for name in names if (match := _COUNTED.fullmatch(plain(name)))]
    return [name for _, name in sorted((int(match[2]), name) for match, name in matches if match[1] == stem)]
