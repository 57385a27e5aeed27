"""Recipes: those that come with the package, and what is refused in one sentence."""

import pytest

from remoe_sim.finetune.recipe import Recipe, Term, read_recipe, recipe_names, recipe_of, takes

WHOLE = {"length": 8, "batch": 1, "accumulate": 1, "evaluate_every": 2, "band": 0.1}
STAGE = {"name": "one", "steps": 4, "learning_rate": 1e-3, "terms": {"language_model": 1.0}}


def test_the_recipes_that_come_along_can_be_read():
    assert {"paper", "three-stage", "ce-only"} <= set(recipe_names())
    for name in recipe_names():
        recipe = read_recipe(name)
        assert (recipe.name, recipe.length, recipe.batch * recipe.accumulate) == (name, 2048, 8)
        assert sum(stage.steps for stage in recipe.stages) == 2000
        assert recipe.about


def test_the_recipes_differ_in_the_load_balance_loss():
    paper, stages, control = (read_recipe(name) for name in ("paper", "three-stage", "ce-only"))
    assert all("load_balance" not in stage.terms for stage in paper.stages)
    assert [("load_balance" in stage.terms, stage.data) for stage in stages.stages] == [
        (False, "data"), (True, "data"), (True, "downstream"),
    ]  # fmt: skip
    assert [set(stage.terms) for stage in control.stages] == [{"language_model"}]


def test_a_weight_rises_over_its_ramp():
    assert [Term(2.0, 4).at(step) for step in (0, 1, 3, 9)] == [0.5, 1.0, 2.0, 2.0]
    assert Term(2.0).at(0) == 2.0


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "length = 8\nbatch = 2\naccumulate = 1\nevaluate_every = 5\nband = 0.02\n[[stages]]\nname = 'a'\nsteps = 3\n"
        "learning_rate = 1e-3\nterms = { lag = { weight = 0.5, ramp = 2, lags = [1, 3] }, language_model = 1 }\n"
    )
    recipe = read_recipe(path)
    assert recipe == read_recipe(str(path))
    assert recipe.stages[0].terms["lag"] == Term(0.5, 2, {"lags": [1, 3]})
    assert (recipe.name, recipe.clip, recipe.bf16, recipe.stages[0].data) == ("mine", 1.0, False, "data")


def test_what_a_term_takes_is_read_from_its_parameters():
    assert takes("trust") == (("logp", "reference", "real"), ())
    assert takes("working_set") == (("logp", "real"), ("window",))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({**WHOLE}, r"has no \[\[stages\]\]"),
        ({**WHOLE, "stages": [STAGE], "lenght": 3}, "unknown entry 'lenght'; did you mean 'length'"),
        ({**WHOLE, "stages": [{**STAGE, "terms": {"reuze": 1.0}}]}, "unknown term 'reuze'; did you mean 'reuse'"),
        ({**WHOLE, "stages": [{**STAGE, "terms": {}}]}, "stage 'one' has no terms; give some of lag, "),
        ({**WHOLE, "stages": [{**STAGE, "terms": {"reuse": {"ramp": 2}}}]}, "reuse: weight is None; give a number"),
        ({**WHOLE, "stages": [{**STAGE, "terms": {"reuse": -1}}]}, "weight is -1; give a number from 0"),
        ({**WHOLE, "stages": [{**STAGE, "terms": {"reuse": {"weight": 1, "window": 3}}}]}, "unknown option 'window'"),
        ({**WHOLE, "stages": [{**STAGE, "terms": {"lag": {"weight": 1, "lags": [0]}}}]}, r"lags is \[0\]; give whole"),
        ({**WHOLE, "stages": [{**STAGE, "steps": 1.5}]}, "steps is 1.5; give a whole number from 1"),
        ({**WHOLE, "stages": [{**STAGE, "data": "up"}]}, "unknown data 'up'"),
        ({**WHOLE, "stages": [STAGE, STAGE]}, "two stages of one name"),
        ({**WHOLE, "stages": [STAGE], "band": float("nan")}, "band is nan"),
        ({**WHOLE, "stages": [STAGE], "bf16": 1}, "bf16 is 1; give a bool"),
        ({"length": 8, "stages": [STAGE]}, "'batch' is missing"),
        ({**WHOLE, "stages": [{"name": "one", "terms": {"reuse": 1}}]}, "stage 'one': 'steps' is missing"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_one_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        recipe_of("mine", values, "recipe 'mine.toml'")
    assert str(error.value).startswith("recipe 'mine.toml'")
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="unknown recipe 'papers'; did you mean 'paper'"):
        read_recipe("papers")
    with pytest.raises(ValueError, match="No such file"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a =")
    with pytest.raises(ValueError, match="is no valid TOML"):
        read_recipe(str(tmp_path / "bad.toml"))
    assert isinstance(recipe_of("x", {**WHOLE, "stages": [STAGE]}, "it"), Recipe)
