"""Layers: several experiments on one user, each read as if it was alone, and files that would mix them refused."""

import asyncio
import json
from collections import Counter

import orjson
import pytest
from scipy.stats import chi2_contingency

from service.consumer.files import EventFolder
from service.consumer.tables import TABLES
from service.consumer.users import read_experiment
from service.errors import ConfigurationError
from service.events.outbox import MemoryOutbox
from service.events.streams import EXPOSURES
from service.experiments.assignment import Assigner, Reason, new_bucket
from service.experiments.conditions import RequestFacts, unit_key
from service.experiments.exposure import Exposure
from service.experiments.layers import ArmSettings
from service.experiments.recorder import ExposureRecorder
from service.experiments.report.planned import read_shares

ARMS = ("comirec", "recgpt", "recgpt_two", "recgpt_ivf", "comirec_ivf")
SPLIT = {"hashAttribute": "user_id", "hashVersion": 2}
ARM = SPLIT | {"key": "arm", "variations": ["comirec", "recgpt"], "meta": [{"key": "control"}, {"key": "recgpt"}]}
STEPS = SPLIT | {
    "key": "steps",
    "variations": [{}, {"recgpt": "recgpt_two"}],
    "meta": [{"key": "one"}, {"key": "two"}],
}
INDEX = SPLIT | {"key": "index", "variations": [{}, {"comirec": "comirec_ivf"}]}
UNITS = 6_000


def payload(*steps, arm=(ARM,), **more):
    features = {
        "recall_arm": {"defaultValue": "comirec", "rules": [*arm]},
        "recall_settings": {"defaultValue": {}, "rules": [*steps]},
    }
    return {"features": features | {name: {"defaultValue": {}, "rules": rules} for name, rules in more.items()}}


def assigner(*steps, has_buckets=False, **more):
    content = json.dumps(payload(*steps, **more)).encode()
    return Assigner.from_bytes(content, ARMS, "the file", has_buckets)


def choices(ours, units=UNITS):
    return [ours.assign(f"user-{number}") for number in range(units)]


def test_a_layer_says_how_the_arm_of_another_is_set():
    counts = Counter(
        (own.variation, own.arm, *(each.variation for each in own.crossed)) for own in choices(assigner(STEPS))
    )
    assert set(counts) == {("control", "comirec"), ("recgpt", "recgpt", "one"), ("recgpt", "recgpt_two", "two")}
    assert counts["control", "comirec"] == pytest.approx(UNITS / 2, rel=0.1)
    assert counts["recgpt", "recgpt", "one"] == pytest.approx(UNITS / 4, rel=0.1)


def test_the_arm_of_a_user_is_that_of_the_file_without_the_layer():
    alone, crossed = choices(assigner()), choices(assigner(STEPS))
    assert [own.variation for own in alone] == [own.variation for own in crossed]


def test_layers_are_independent_of_each_other():
    """Each pair of experiments crosses as two fair coins do."""
    everywhere = {"recgpt": "recgpt_two", "comirec": "comirec_ivf"}
    own = assigner(STEPS | {"variations": [{}, everywhere]}, arm=[ARM])
    table = Counter((chosen.variation, chosen.crossed[0].variation) for chosen in choices(own, 20_000))
    counts = [[table[arm, steps] for steps in ("one", "two")] for arm in ("control", "recgpt")]
    assert chi2_contingency(counts).pvalue > 0.001


def test_several_layers_each_for_arms_of_their_own():
    own = choices(assigner(STEPS, recall_settings_index=[INDEX]))
    assert {(chosen.arm, *(each.experiment for each in chosen.crossed)) for chosen in own} == {
        ("comirec", "index"),
        ("comirec_ivf", "index"),
        ("recgpt", "steps"),
        ("recgpt_two", "steps"),
    }


LIKED = STEPS | {"key": "liked", "variations": [{"recgpt": {"outcome": None}}, {"recgpt": {"outcome": "like"}}]}
NOVEL = INDEX | {"key": "novel", "variations": [{}, {"recgpt": {"diversity": 0.3}}]}


def test_layers_set_an_arm_together_each_its_own_part():
    """An arm, an outcome and diversity, by three fair coins."""
    own = choices(assigner(STEPS, recall_settings_b=[LIKED], recall_settings_c=[NOVEL]))
    counts = Counter((chosen.arm, chosen.settings) for chosen in own if chosen.crossed)
    told = [None, ArmSettings("like"), ArmSettings(None, 0.3), ArmSettings("like", 0.3)]
    assert set(counts) == {(arm, settings) for arm in ("recgpt", "recgpt_two") for settings in told}
    assert min(counts.values()) > UNITS / 16 * 0.7
    assert all((each.arm, each.settings) == (own.arm, own.settings) for own in own for each in own.crossed)
    assert {len(chosen.crossed) for chosen in own} == {0, 3}


def test_one_value_sets_an_arm_and_what_its_lists_are_asked_for():
    both = {"recgpt": {"arm": "recgpt_two", "outcome": "like", "diversity": 1}}
    own = choices(assigner(STEPS | {"variations": [{}, both]}), 200)
    assert {(chosen.arm, chosen.settings) for chosen in own} == {
        ("comirec", None),
        ("recgpt", None),
        ("recgpt_two", ArmSettings("like", 1)),
    }


def test_forced_and_mixed_lists_have_no_settings():
    own = assigner(LIKED, arm=[ARM | {"kind": "interleaving"}])
    assert {own.assign(f"user-{n}").settings for n in range(50)} == {None}
    assert {assigner(LIKED).assign(f"user-{n}", forced="recgpt").settings for n in range(50)} == {None}


def test_a_forced_arm_and_two_arms_of_one_list_are_what_they_are():
    own = assigner(STEPS, arm=[ARM | {"kind": "interleaving"}])
    mixed = own.assign("user-1")
    assert ([team.arm for team in mixed.teams], mixed.crossed) == (["comirec", "recgpt"], ())
    assert {assigner(STEPS).assign(f"user-{n}", forced="recgpt").arm for n in range(50)} == {"recgpt"}


def test_a_rule_for_everybody_is_no_experiment():
    own = choices(assigner({"force": {"recgpt": "recgpt_two"}}), 200)
    assert {(chosen.arm, chosen.crossed) for chosen in own} == {("comirec", ()), ("recgpt_two", ())}


class Query:
    request_id, top_n = "r", 10

    def __init__(self, user):
        self._user = user

    def unit_by(self, attribute):
        return self._user if attribute == "user_id" else None


async def exposures_of(recorder, outbox, chosen):
    for number, own in enumerate(chosen):
        recorder.record(Query(f"user-{number}"), own, own.arm)
    return [entry.event for entry in (await outbox.reader(EXPOSURES, Exposure.from_json).read()).events]


def test_the_log_has_an_exposure_for_each_layer_and_each_is_read_alone(tmp_path):
    outbox, own = MemoryOutbox(1 << 20), assigner(STEPS)
    kept = asyncio.run(exposures_of(ExposureRecorder(outbox), outbox, choices(own, 400)))
    files, table = EventFolder(tmp_path), next(table for table in TABLES if table.name == "exposures")
    rows = [dict(orjson.loads(orjson.dumps(event))) for event in kept]
    files.write(table, [row | {"stream_id": f"{number}-0"} for number, row in enumerate(rows, 1)])
    files.close()
    arm, steps = (read_experiment(tmp_path, key).users_until().frame for key in ("arm", "steps"))
    assert (arm.height, set(arm["variation"]), set(steps["variation"])) == (400, {"control", "recgpt"}, {"one", "two"})
    # those whose arm the layer can change, and nobody else
    assert set(steps["user_id"]) == set(arm.filter(arm["variation"] == "recgpt")["user_id"])
    assert {(event.experiment, event.variation, event.assigned) for event in kept if event.experiment == "steps"} == {
        ("steps", "one", "recgpt"),
        ("steps", "two", "recgpt_two"),
    }


def test_each_layer_has_buckets_of_its_own():
    """A coverage that falls moves nobody who has one."""
    own = assigner(STEPS, has_buckets=True)
    users = [f"user-{n}" for n in range(200)]
    kept = {}
    for user in users:
        chosen = own.assign(user, facts=RequestFacts(kept={}))
        buckets = [new_bucket(each, user, {}) for each in (chosen, *chosen.crossed)]
        kept[user] = {unit_key("user_id", user): dict(filter(None, buckets))}
    assert own.bucket_units == ("user_id",)
    fallen = assigner(STEPS | {"coverage": 0.1}, has_buckets=True)
    for user in users:
        before, after = own.assign(user), fallen.assign(user, facts=RequestFacts(kept=kept[user]))
        assert [each.variation for each in before.crossed] == [each.variation for each in after.crossed]


def test_a_paused_experiment_of_a_layer_changes_nothing_any_more():
    own = assigner(STEPS)
    paused = own.without({("steps", "")})
    assert {(chosen.arm, chosen.crossed) for chosen in choices(paused, 200)} == {("comirec", ()), ("recgpt", ())}
    assert own.without({("steps", "another phase")}) is own
    assert own.digest != paused.digest
    # those who are in the other experiment stay exposed to the same settings
    assert own.config == paused.config
    stopped = own.without({("arm", "")})
    assert {chosen.reason for chosen in choices(stopped, 50)} == {Reason.NO_EXPERIMENT}


def test_a_change_within_a_phase_is_refused_in_every_layer():
    with pytest.raises(ConfigurationError, match="steps changed its variations within phase ''"):
        assigner(STEPS | {"variations": [{}, {"recgpt": "recgpt_ivf"}]}).check_follows(assigner(STEPS))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (payload(STEPS | {"variations": ["recgpt", "recgpt_two"]}), "has the value recgpt; it takes an object of arms"),
        (payload(STEPS | {"variations": [{}, {"recgpt": "gpt9"}]}), "place, both of comirec, comirec_ivf, recgpt"),
        (payload(STEPS | {"variations": [{}, {"recgpt": 3}]}), "it takes an object of arms"),
        (payload(STEPS | {"kind": "interleaving"}), "steps interleaves, which only rules of recall_arm do"),
        (
            payload(STEPS | {"key": "arm", "seed": "x"}),
            "recall_arm and recall_settings have an experiment with the key 'arm'",
        ),
        (payload(STEPS | {"seed": "arm"}), "recall_arm and recall_settings have rules with one seed, 'arm'"),
        (
            payload(
                STEPS | {"filters": [{"seed": "arm", "attribute": "user_id", "hashVersion": 2, "ranges": [[0, 0.5]]}]}
            ),
            "a filter of recall_settings has the seed of a rule of recall_arm, 'arm'",
        ),
        (
            payload(STEPS | {"variations": [{}, {"recgpt": "comirec"}]}),
            "gives comirec in place of recgpt, and recall_arm has comirec as an arm of its own",
        ),
        (
            payload(STEPS, recall_settings_b=[INDEX | {"variations": [{}, {"recgpt": "recgpt_ivf"}]}]),
            "recall_settings and recall_settings_b both say what answers for recgpt",
        ),
        (
            payload(STEPS, recall_settings_b=[INDEX | {"variations": [{}, {"recgpt_two": "recgpt_ivf"}]}]),
            "recall_settings gives recgpt_two in place of recgpt, and recall_settings_b has recgpt_two",
        ),
        *(
            (payload(STEPS | {"variations": [{}, {"recgpt": value}]}), 'how an arm answers, {"arm": .., "outcome"')
            for value in (
                {"outcome": ""},
                {"outcome": 3},
                {"diversity": 1.5},
                {"diversity": "0.5"},
                {"arm": "gpt9"},
                {"steps": 2},
                ["like"],
            )
        ),
        (payload(STEPS, **{r"recall_settings_\1\q": [{"nope": 1}]}), r"recall_settings_\1\q"),
        (
            payload(LIKED, recall_settings_b=[LIKED | {"key": "b"}]),
            "recall_settings and recall_settings_b both say the outcome of recgpt",
        ),
        (
            payload(LIKED | {"variations": [{}, {"recgpt": {"arm": "comirec", "outcome": "like"}}]}),
            "gives comirec in place of recgpt, and recall_arm has comirec as an arm of its own",
        ),
        (
            payload(STEPS, recall_settings_b=[LIKED | {"variations": [{}, {"recgpt_two": {"outcome": "like"}}]}]),
            "recall_settings gives recgpt_two in place of recgpt, and recall_settings_b has recgpt_two",
        ),
        (payload(STEPS, STEPS | {"key": "more"}), "steps and more overlap"),
        (payload(STEPS | {"hashVersion": 1}), "steps"),
        (payload("no rule"), "recall_settings"),
    ],
)
def test_layers_that_would_disturb_each_other_are_refused(content, sentence):
    with pytest.raises(ConfigurationError) as refused:
        Assigner.from_features(content, ARMS)
    assert sentence in str(refused.value)


def test_a_feature_of_settings_that_is_none_is_refused():
    content = payload() | {}
    content["features"]["recall_settings"] = ["recgpt"]
    with pytest.raises(ConfigurationError, match="recall_settings is no feature with a defaultValue"):
        Assigner.from_features(content, ARMS)


def test_shares_of_an_experiment_are_found_in_its_layer(tmp_path):
    path = tmp_path / "experiments.json"
    path.write_text(json.dumps(payload(STEPS | {"weights": [0.9, 0.1]})))
    assert read_shares(path, "steps", "") == {"one": 0.9, "two": 0.1}
    assert read_shares(path, "arm", "") == {"control": 0.5, "recgpt": 0.5}
