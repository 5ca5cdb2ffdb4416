"""Recipes: the packaged ones fit their systems, and a mistake in one is a sentence."""

import pytest

from model.networks import build_network
from model.recipes.files import PARTS, RecipeName, load_recipe, read_sections, recipe_names
from model.recipes.schema import PlanSearch, Stage
from model.records import Placement, PromptPlan

S3REC = ("beauty", "sports", "toys", "yelp")
TABLE = (*S3REC, "kuairand", "kuairec")
SYSTEMS = [
    "popularity",
    "bpr",
    "stamp",
    "gru4rec",
    "narm",
    "caser",
    "s3rec",
    "bert4rec",
    "sasrec",
    "comirec",
    "comirec-dr",
    "recgpt-pretrain",
    "recgpt-finetune",
    "recgpt-one",
    "recgpt",
]


def parts_of(name):
    if name not in TABLE:
        return ("best",)
    return PARTS if name in S3REC else ("best", "paper")


def packaged_sections():
    """(recipe:part, arm) of everything that comes with the package."""
    for name in recipe_names():
        for part in parts_of(name):
            yield from ((f"{name}:{part}", arm) for arm in read_sections(RecipeName(name, part)))


@pytest.fixture
def write(tmp_path):
    def write_recipe(text):
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "mine.yaml")

    return write_recipe


def refusal(name, arm="recgpt"):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        load_recipe(name, arm)
    return str(caught.value)


@pytest.fixture(scope="module", params=[*packaged_sections()], ids="-".join)
def packaged(request):
    return load_recipe(*request.param)


def test_packaged_recipe_builds_its_network(packaged):
    for part in packaged.parts or (packaged,):
        network = build_network(part.system, {**part.network, "num_items": 9, "num_users": 2})
        assert network.kind == part.system
        assert network.trained == bool(part.stages)


def test_packaged_recipe_asks_its_system_for_nothing_it_cannot(packaged):
    for part in packaged.parts or (packaged,):
        generates = build_network(part.system, {"num_items": 9}).generates
        assert generates or not any(stage.num_prompts for stage in part.stages)
        assert generates or part.plan == PlanSearch(cutoff=part.plan.cutoff, diversity=part.plan.diversity)


def test_packaged_recipe_searches_plans_that_exist(packaged):
    search = packaged.plan
    plans = [PromptPlan(k, p, s) for k in search.num_prompts for p in search.placements for s in search.num_steps]
    assert plans
    assert packaged.metric.split("@")[0] in ("recall", "hr", "precision", "ndcg")


def test_the_packaged_recipes_are_there():
    assert {*TABLE, "leave-one-out", "demo", "default"} == {*recipe_names()}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("part", ["best", "paper"])
def test_every_recipe_of_the_table_has_every_system(name, part):
    ours = ["deepsets", "fism", "recgpt-two"] if part == "best" else []
    if name in ("beauty", "toys") and part == "best":
        ours += ["recgpt-prefixes"]
    if (name, part) == ("yelp", "best"):
        ours += ["recgpt-recency"]
    if (name, part) == ("kuairand", "best"):
        ours += [f"{system}-window" for system in ("gru4rec", "narm", "sasrec", "fism", "comirec")] + ["recgpt-next"]
    assert sorted(read_sections(RecipeName(name, part))) == sorted(SYSTEMS + ours)


@pytest.mark.parametrize("arm", [arm for arm in SYSTEMS if arm.startswith("recgpt")])
def test_recgpt_as_published(arm):
    recipe = load_recipe("beauty:paper", arm)
    sizes = {"dim": 64, "num_layers": 1, "num_heads": 2, "max_length": 50}
    sizes |= {"user_dropout": 1.0, "dropout": 0.5, "attention_dropout": 0.0}
    assert (recipe.loss, recipe.batch_users, recipe.equal_positions, recipe.network) == ("bce", 256, True, sizes)
    pretraining, *tuning = recipe.stages
    assert (pretraining.num_epochs, pretraining.learning_rate, recipe.loss_of(pretraining)) == (300, 0.001, "bce")
    assert all((stage.learning_rate, recipe.loss_of(stage)) == (0.0005, "softmax") for stage in tuning)
    assert recipe.plan.num_steps == ((2,) if arm == "recgpt" else (1,))


def test_what_is_not_said_has_a_default(write):
    recipe = load_recipe(write("recgpt: {stages: [{num_epochs: 2}]}"), "recgpt")
    assert (recipe.name, recipe.arm, recipe.system) == ("mine", "recgpt", "recgpt")
    assert recipe.stages == (Stage(num_epochs=2),)
    assert recipe.plan == PlanSearch()


def test_what_is_said_is_read(write):
    text = """
    blend:
      system: recgpt
      network: {dim: 32}
      batch_users: 7
      stages: [{num_epochs: 2, learning_rate: 0.5}, {num_epochs: 1, num_prompts: 3}]
      plan: {num_prompts: [1], placements: [none, all], num_steps: [1, 2], diversity: 0.25}
    """
    recipe = load_recipe(write(text), "blend")
    assert (recipe.arm, recipe.system, recipe.network, recipe.batch_users) == ("blend", "recgpt", {"dim": 32}, 7)
    assert recipe.stages == (Stage(num_epochs=2, learning_rate=0.5), Stage(num_epochs=1, num_prompts=3))
    places = (Placement.NONE, Placement.ALL)
    assert recipe.plan == PlanSearch(num_prompts=(1,), placements=places, num_steps=(1, 2), diversity=0.25)


def test_unknown_recipe_names_the_known():
    assert f"there are {', '.join(recipe_names())}, or give a .yaml file" in refusal("nonsense")


def test_file_that_is_not_there():
    assert "no recipe 'nowhere.yaml'" in refusal("nowhere.yaml")


def test_unknown_arm_names_the_known():
    assert "has no arm 'other'; it has recgpt, comirec" in refusal("demo", "other")


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words", "recgpt:"])
def test_file_without_arms(write, text):
    assert "has no arm 'recgpt'; it has none" in refusal(write(text))


def test_file_that_is_not_yaml(write):
    assert "is not YAML" in refusal(write("recgpt: {stages: ["))


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (
            "{stages: [{num_epochs: 1}], epochs: 3}",
            "a recipe has no epochs in Recipe; it has name, arm, system, stages",
        ),
        ("{stages: [{num_epochs: 1, rate: 3}]}", "a recipe has no rate in Stage; it has num_epochs, num_prompts"),
        ("{stages: [{num_epochs: 1}], plan: {k: 3}}", "a recipe has no k in PlanSearch; it has cutoff"),
        ("{stages: [{num_epochs: 1}], plan: {placements: [top]}}", "'top' is not a valid Placement"),
        ("{stages: [{num_prompts: 1}]}", "a recipe lacks num_epochs in Stage"),
        ("{stages: [{num_epochs: 0}]}", "num_epochs is 0; a stage needs at least 1"),
        ("{stages: [{num_epochs: 1, objective: bert}]}", "objective is 'bert'; it is next or pretrain"),
        ("{stages: [{num_epochs: 1, objective: pretrain, num_prompts: 1}]}", "a pretrain stage has no prompts"),
        ("{stages: [{num_epochs: 1, objective: pretrain}]}", "the last stage is a pretrain stage"),
        ("{stages: [{num_epochs: 1}], loss: hinge}", "loss is 'hinge'; it is softmax, bce or bpr"),
        ("{stages: [{num_epochs: 1, objective: pretrain, loss: bce}]}", "a pretrain stage has its system's own loss"),
        ("{stages: [{num_epochs: 1, loss: hinge}]}", "loss is 'hinge'; it is softmax, bce or bpr"),
        ("{stages: [3]}", "a recipe's Stage is 3; it must be a mapping of num_epochs"),
        ("{stages: [{num_epochs: 1}], averaged_part: 0}", "averaged_part is 0; it is a whole number of at least 1"),
        ("{stages: [{num_epochs: 1}], warmup_steps: -1}", "warmup_steps is -1; it is a whole number, 0 for none"),
        ("{stages: [{num_epochs: 1}], equal_positions: 1}", "equal_positions is 1; it is true or false"),
        ("{stages: [{num_epochs: 1}], metric: ndcg}", "metric is 'ndcg'; it is one of recall, hr, precision, ndcg"),
        ("{stages: [{num_epochs: 1}], metric: mrr@5}", "metric is 'mrr@5'"),
        ("{stages: [{num_epochs: 1}], metric: hr@0}", "metric is 'hr@0'"),
        ("{stages: [{num_epochs: 1}], window: {length: 0}}", "the window's length is 0; it is a whole number of items"),
        ("{stages: [{num_epochs: 1}], window: {decay: 2.0}}", "the window's decay is 2.0; it is a number above 0"),
        ("{stages: [{num_epochs: 1}], window: {decay: 0.5}}", "the window's decay needs a length of 2 at least"),
        ("{stages: [{num_epochs: 1}], plan: {forms: [soft]}}", "forms has soft, but no plan generates behind the end"),
        ("{stages: [{num_epochs: 1}], plan: {num_prompts: [2]}}", "num_prompts is 2, and placements has no place for"),
        (
            "{stages: [{num_epochs: 1}], plan: {placements: [none, tail]}}",
            "placements has tail, and num_prompts has no",
        ),
        (
            "{stages: [{num_epochs: 1}], plan: {num_prompts: [9], placements: [all]}}",
            "num_prompts is 9; it must be 0 to",
        ),
        ("{stages: [{num_epochs: 1}], plan: {num_steps: [9]}}", "num_steps is 9; it must be 1 to 8"),
        ("{stages: [{num_epochs: 1}], plan: {num_prompts: 2}}", "plan has num_prompts: 2; it is a list of all that"),
        ("{stages: [{num_epochs: 1}], plan: {placements: []}}", "plan has placements: []; it is a list of all that"),
        ("{stages: [{num_epochs: 1}], plan: 2}", "a recipe's PlanSearch is 2; it must be a mapping of cutoff"),
        ("{stages: [{num_epochs: 1}], plan: {num_steps: [two]}}", "plan has 'two' where a whole number belongs"),
        ("{stages: [{num_epochs: 1}], plan: {sums: [0.5]}}", "sums joins several steps, and num_steps has one"),
        ("{stages: [{num_epochs: 1}], window: 20}", "a recipe's Window is 20; it must be a mapping of length, decay"),
        ("{stages: [{num_epochs: 1, num_steps: 0}]}", "num_steps is 0; a stage has 1 at least"),
        ("{stages: [{num_epochs: 1, num_steps: 2, num_prompts: 1}]}", "a stage of several steps is on the next item"),
        ("{stages: [{num_epochs: 1}], plan: {forms: [hard]}}", "'hard' is not a valid PromptForm"),
        ("{batch_users: 3}", "stages are missing; an arm that is not trained has stages: []"),
    ],
)
def test_mistake_in_a_section(write, section, reason):
    assert reason in refusal(write(f"recgpt: {section}"))
