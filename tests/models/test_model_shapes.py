"""Cards of models: what they have to say, what they may not, and how they are listed."""

import copy
import json

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from remoe_sim.models.shape import shape_of_card
from remoe_sim.util.cards import card_names, read_card

CARD = read_card("model", "qwen3-next-80b-a3b")[1]


def changed(**changes):
    """The card with `table.name` replaced, or taken away by None; tables of a list by their number."""
    card = copy.deepcopy(CARD)
    for path, value in changes.items():
        *tables, name = path.split("__")
        place = card
        for table in tables:
            place = place[int(table)] if table.isdigit() else place[table]
        if value is None:
            del place[name]
        else:
            place[name] = value
    return card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": None}, "card: 'status' is missing"),
        ({"source": None}, "card: 'source' is missing"),
        ({"status": "sure"}, "unknown status 'sure'"),
        ({"shapes": {}}, "unknown entry 'shapes'; did you mean 'shape'"),
        ({"shape": 3}, "card: shape: 3 is no table"),
        ({"shape__experts": None}, "card: shape: 'experts' is missing"),
        ({"shape__width": 3}, "unknown entry 'width'"),
        ({"shape__experts": 8.5}, "'experts' is 8.5; give a whole number"),
        ({"shape__layers": True}, "'layers' is True; give a whole number"),
        ({"shape__layers": 0}, "layers is 0"),
        ({"shape__layers": 10**9}, "'layers' is 1000000000; give a whole number up to"),
        ({"shape__layers": 10**8}, "100000000 layers are too many"),
        ({"shape__top_k": 513}, "top_k is 513 but there are 512 experts"),
        ({"shape__shared_gate": 1}, "'shared_gate' is 1; give true or false"),
        ({"shape__first_moe_layer": 48}, "no layer has experts"),
        ({"shape__first_moe_layer": 1}, "layers without experts need 'dense_intermediate'"),
        ({"shape__expert_type": "mxfp5"}, "unknown expert_type 'mxfp5'; did you mean 'mxfp4'"),
        ({"attention": []}, "layer 0 has no attention"),
        ({"attention": [3]}, "attention: 3 is no table"),
        ({"attention__0__kind": "gqua"}, "unknown kind 'gqua'; did you mean 'gqa'"),
        ({"attention__0__heads": None}, "'heads' is missing"),
        ({"attention__0__layers": [48]}, "there is no layer 48; layers go from 0 to 47"),
        ({"attention__1__first_layer": 1}, "layer 0 has no attention"),
        ({"published__parameters": 80e9}, "'parameters' says nothing of where it comes from"),
    ],
)
def test_a_card_that_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        shape_of_card(changed(**changes), "card")
    assert "\n" not in str(caught.value)


def test_doubts_are_said():
    assumed = {"value": 512, "status": "assumed", "source": "a guess"}
    assert shape_of_card(changed(shape__experts=assumed), "x").unverified == ("experts 512 is assumed: a guess",)
    assert shape_of_card(changed(status="unverified"), "x").unverified[-1].startswith("everything is unverified: ")
    assert shape_of_card(CARD, "x").unverified == ()


def test_a_card_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'status = "assumed"\nsource = "a plan"\n[shape]\nlayers = 1\nhidden_size = 8\nvocabulary = 5\nexperts = 1\n'
        'top_k = 1\nexpert_intermediate = 4\n[attention]\nkind = "gqa"\nheads = 2\nkv_heads = 1\nhead_dim = 4\n'
    )
    model = remoe_sim.model(path)
    assert (model.name, model.expert_bytes, model.kv_bytes_per_token) == ("mine", (2 * 3 * 8 * 4,), (2 * 4 * 2,))
    assert (model.published_parameters, model.unverified) == (None, ("everything is assumed: a plan",))
    with pytest.raises(
        ValueError, match=r"unknown model 'qwen3-30b'; did you mean 'qwen3-30b-a3b'.*remoe-sim list models"
    ):
        remoe_sim.model("qwen3-30b")


@pytest.mark.parametrize("name", card_names("model"))
def test_cards_name_their_sources(name):
    card = read_card("model", name)[1]
    assert card["title"].lower().replace(" ", "-") == name
    assert card["repository"].count("/") == 1
    assert all(sentence.endswith(".") for key in ("notes", "unverified") for sentence in card.get(key, []))
    assert card["status"] in ("verified", "verified-secondary", "derived")


def test_the_list_fits_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(cli.main, ["list", "models"])
    assert shown.exit_code == 0
    assert max(map(len, shown.output.splitlines())) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in shown.output.splitlines() if line}
    assert rows["qwen3-30b-a3b"] == ["48", "128", "8", "30.5", "3.0", "9.00", "2.72"]
    assert "olmoe-1b-7b?" in rows
    assert [name for name in card_names("model") if name not in rows and f"{name}?" not in rows] == []


def test_the_list_as_json():
    items = json.loads(CliRunner().invoke(cli.main, ["list", "models", "--json"]).output)["items"]
    of = {item["name"]: item for item in items}
    assert list(of) == card_names("model")
    assert of["qwen3-30b-a3b"]["mean_expert_bytes"] == {"bf16": 9437184, "q4_k_m": (2654208 + 3059712) / 2}
    assert "from memory" in of["olmoe-1b-7b"]["unverified"][0]
