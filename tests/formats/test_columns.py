"""What a column says is told by its name, or by the user."""

import pytest

from remoe_sim import import_trace
from remoe_sim.formats.columns import SYNONYMS, Columns, find_columns, parse_columns, plain
from tests.support.imported import refused

LAYOUTS = {
    "request,position,phase,layer,expert": Columns("request", "position", "phase", "layer", experts=("expert",)),
    "phase,token,layer,rank,expert": Columns(None, "token", "phase", "layer", "rank", experts=("expert",)),
    "p,t,l,e,s": Columns("p", "t", None, "l", experts=("e",), weights=("s",)),
    "prompt_id,category,phase,token_idx,layer_idx,expert_ids": Columns(
        "prompt_id", "token_idx", "phase", "layer_idx", experts=("expert_ids",)
    ),
    "Token Idx,layerId,expert[1],expert[0],gate[0],gate[1]": Columns(
        None, "Token Idx", None, "layerId", experts=("expert[0]", "expert[1]"), weights=("gate[0]", "gate[1]"),
        counted=True, numbers=(0, 1),
    ),
    "token_position,token_id,layer_index,expert_id_0,expert_weight_0": Columns(
        None, "token_position", None, "layer_index", None, None, "token_id", ("expert_id_0",), ("expert_weight_0",),
        True, (0,),
    ),
    "position,phase,experts_00,experts_11,weights_00": Columns(
        None, "position", "phase", experts=("experts_00", "experts_11"), weights=("weights_00",), counted=True,
        numbers=(0, 11),
    ),
    "a,b": Columns(),
}  # fmt: skip


@pytest.mark.parametrize("names", LAYOUTS)
def test_columns_are_found_by_their_names(names):
    found = find_columns(names.split(","))
    assert found == LAYOUTS[names]
    assert found.used <= set(names.split(","))


def test_a_name_says_one_thing():
    names = [name for several in SYNONYMS.values() for name in several]
    assert len(names) == len(set(names))
    assert all(plain(name) == name for name in names)


def test_the_user_goes_first():
    chosen = parse_columns("position=when,layer=l,experts=c,req=position")
    found = find_columns(["when", "l", "c0", "c1", "position", "layer"], chosen)
    assert (found.position, found.layer, found.experts, found.request) == ("when", "l", ("c0", "c1"), "position")
    assert parse_columns({"experts": ["a", "b"], "layer": "x"}) == (("experts", "a"), ("experts", "b"), ("layer", "x"))
    assert parse_columns("token,layer,e0") == (("", "token"), ("", "layer"), ("", "e0"))
    assert parse_columns(None) == ()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("colour=red", "'colour' is not something that a column can say; give KIND=COLUMN, with the kinds request"),
        ("layer=", "a column's name is missing"),
        ("layer=a,b", "KIND=COLUMN for each, or only the names"),
    ],
)
def test_impossible_choices(given, part):
    with pytest.raises(ValueError, match=part):
        parse_columns(given)


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match=r"no column 'x' \(there are a, b\)"):
        find_columns(["a", "b"], parse_columns("layer=x"))


def test_whole_numbers_as_pandas_writes_them_where_a_cell_is_empty(tmp_path):
    text = ",pos,layer,e0,e1\n0,0.0,0.0,3.0,1\n1,0.0,1.0,2.0,0\n"
    (tmp_path / "t.csv").write_text(text)
    trace = import_trace(tmp_path / "t.csv")
    assert [one.experts.tolist() for _, one in trace.layers()] == [[[3, 1]], [[2, 0]]]
    (tmp_path / "u.csv").write_text(text.replace("3.0", "3.5"))
    refused(tmp_path / "u.csv", "line 2, column 'e0': '3.5', expected a whole number")
