"""Cards: found by name or path, and every number says where it comes from."""

import pytest

import remoe_sim
from remoe_sim.util.cards import STATUSES, Fact, card_names, facts, is_path, read_card

GOOD = {"value": 24e9, "status": "verified", "source": "data sheet"}


def test_a_card_by_path(tmp_path):
    path = tmp_path / "my.box-2.5b.toml"
    path.write_text('[memory]\nmemory_bytes = { value = 24e9, status = "verified", source = "data sheet" }\n')
    for given in (path, str(path)):
        name, table = read_card("device", given)
        assert name == "my.box-2.5b"
        assert facts(table["memory"], ["memory_bytes"]) == {"memory_bytes": Fact(24e9, "verified", "data sheet")}


def test_an_unknown_name_lists_the_valid_ones():
    names = card_names("model")
    assert names == sorted(names)
    with pytest.raises(ValueError, match=r"unknown model 'nope'.*see 'remoe-sim list models'"):
        read_card("model", "nope")
    with pytest.raises(ValueError, match="unknown kind of card 'moddel'; did you mean 'model'"):
        card_names("moddel")


def test_what_counts_as_a_path(tmp_path):
    assert [is_path(text) for text in ("a/b", "a.toml", tmp_path, "qwen1.5-moe")] == [True, True, True, False]


def test_a_file_that_is_no_card(tmp_path):
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("layers = = 3\n")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, message in ((broken, "no valid TOML"), (binary, "no UTF-8"), (tmp_path / "x.toml", "cannot be read")):
        with pytest.raises(ValueError, match=message) as caught:
            read_card("device", path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "says nothing of where it comes from"),
        ({"value": 3}, "has value; write size_bytes = "),
        ({**GOOD, "status": "verifed"}, "unknown status 'verifed'; did you mean 'verified'"),
        ({**GOOD, "source": " "}, "empty source"),
        ({**GOOD, "value": -1}, "is -1; give a number that is 0 or more"),
        ({**GOOD, "value": [1, float("inf")]}, "is inf"),
        ({**GOOD, "unit": "GB"}, "has source, status, unit, value"),
    ],
)
def test_a_number_without_provenance_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        facts({"size_bytes": entry}, ["size_bytes"], where="card x")


def test_names_carry_units():
    with pytest.raises(ValueError, match="card x: unknown entry 'memory_GB'; did you mean 'memory_bytes'"):
        facts({"memory_GB": GOOD}, ["memory_bytes"], where="card x")
    with pytest.raises(ValueError, match="'size_bytes' is missing"):
        facts({}, ["size_bytes"], where="card x")
    assert facts({}, [], ["size_bytes"]) == {}


def test_plain_numbers_take_the_status_of_their_card():
    assert facts({"layers": 3}, ["layers"], plain=("verified", "config")) == {"layers": Fact(3, "verified", "config")}
    assert [Fact(1, status, "x").doubtful for status in STATUSES] == [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("RTX 4090", "rtx-4090"), ("NVIDIA GeForce RTX4090", "rtx-4090"), ("4090", "rtx-4090"),
        ("M2 Ultra", "apple-m2-ultra"), ("Jetson Orin NX 16GB", "jetson-orin-nx-16gb"), ("H100", "h100-80gb"),
        ("RTX 5070Ti", "rtx-5070-ti"), ("Ryzen AI Max+ 395", "ryzen-ai-max-395"), ("M4", "apple-m4"),
        ("Orin", None), ("rtx-2050", None), ("RTX 3090 Ti", None), ("", None), ("nvidia", None),
    ],
)  # fmt: skip
def test_cards_are_found_as_people_spell_their_names(given, name):
    from remoe_sim.util.cards import card_names, spelled

    assert spelled(given, card_names("device")) == name
    if name is not None:
        assert remoe_sim.device(given).name == name
