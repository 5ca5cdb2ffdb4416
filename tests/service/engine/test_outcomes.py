"""Lists that are asked for an outcome: by a request or by the plan, alone and in any batch."""

from dataclasses import replace

import numpy as np
import pytest

from index.bundle.build import build_bundle
from model.checkpoint import Checkpoint
from model.records import History, ServingPlan
from model.rules import NO_RULES, ListRules
from recall.training.plans import save_with_plan
from service.engine.loading import load_arm
from service.engine.offline import OfflineArm, evaluate_outcomes
from service.errors import BadRequest

LIKE, FOLLOW = ListRules(outcome="like"), ListRules(outcome="follow")
ONE_STEP = ("num_steps=1", "quotas=")
LIMIT = 20


@pytest.fixture(scope="module")
def arm_with(checkpoints, tmp_path_factory):
    """The recgpt network under other plans, as arms."""

    def make(*words):
        folder = tmp_path_factory.mktemp("planned")
        save_with_plan(checkpoints["recgpt"], words, folder / "checkpoint")
        build_bundle(folder / "checkpoint", folder / "bundle")
        return load_arm("recgpt", folder / "bundle", "cpu")

    return make


@pytest.fixture(scope="module")
def plain(arm_with):
    return arm_with(*ONE_STEP)


@pytest.fixture(scope="module")
def mixed(arm_with):
    return arm_with(*ONE_STEP, "outcomes=like:0.75,follow:0.25")


@pytest.fixture(scope="module")
def heads(checkpoints):
    return Checkpoint.load(checkpoints["recgpt"]).outcomes


def request(arm, tiny, user=3, rules=NO_RULES, limit=LIMIT):
    ids = tiny.catalogue.items.external(tiny.history(user, "test").tolist())
    return arm.release.request(None, ids, limit=limit, rules=rules)


def listed(results):
    return [(result.merged.rows.tolist(), result.merged.scores.tolist()) for result in results]


def ask(arm, *requests):
    return listed(arm.compute.run(requests))


def test_a_list_ranks_by_the_vector_of_its_outcome(plain, tiny, heads):
    own = request(plain, tiny, rules=LIKE)
    [result] = plain.compute.run([own])
    query = heads.vectors("like", result.vectors.vectors)
    scores = query @ plain.compute.served.exact.vectors.T
    scores[:, [row - 1 for row in own.excluded]] = -np.inf
    assert result.merged.rows.tolist() == (np.argsort(-scores[0], kind="stable")[:LIMIT] + 1).tolist()


def test_what_is_cached_is_the_plain_vector(plain, tiny):
    [asked], [own] = (plain.compute.run([request(plain, tiny, rules=rules)]) for rules in (LIKE, NO_RULES))
    assert (asked.vectors.vectors == own.vectors.vectors).all()
    brought = request(plain, tiny, rules=LIKE).with_vectors(own.vectors)
    assert ask(plain, brought) == listed([asked])


@pytest.mark.parametrize("name", ["plain", "mixed"])
def test_a_batch_is_its_members_one_by_one(name, tiny, request_arm):
    arm = request_arm[name]
    members = [request(arm, tiny, user, rules) for user in range(1, 12) for rules in (LIKE, NO_RULES, FOLLOW)]
    assert ask(arm, *members) == [ask(arm, own)[0] for own in members]


@pytest.fixture(scope="module")
def request_arm(plain, mixed):
    return {"plain": plain, "mixed": mixed}


def test_a_plan_for_one_outcome_is_a_request_for_it(plain, arm_with, tiny):
    planned = arm_with(*ONE_STEP, "outcomes=like")
    users = range(1, 9)
    expected = ask(plain, *(request(plain, tiny, user, LIKE) for user in users))
    assert ask(planned, *(request(planned, tiny, user) for user in users)) == expected


def test_a_request_goes_before_the_plan(plain, mixed, tiny):
    assert ask(mixed, request(mixed, tiny, rules=FOLLOW)) == ask(plain, request(plain, tiny, rules=FOLLOW))


def test_a_mixed_list_has_each_outcomes_share(plain, mixed, tiny):
    [(likes, _)], [(follows, _)] = (ask(plain, request(plain, tiny, rules=rules)) for rules in (LIKE, FOLLOW))
    [result] = mixed.compute.run([request(mixed, tiny)])
    rows = result.merged.rows.tolist()
    assert rows[:15] == likes[:15]
    assert rows[15:] == [row for row in follows if row not in likes[:15]][:5]
    assert [mixed.release.source_name(source) for source in result.merged.sources.tolist()] == ["like"] * 15 + [
        "follow"
    ] * 5


def test_rules_hold_for_an_outcome_too(plain, tiny):
    capped = ListRules(caps=(), filter=None, diversity=0.4, outcome="like")
    [(rows, _)], [(other, _)] = (ask(plain, request(plain, tiny, rules=rules)) for rules in (capped, LIKE))
    assert len(rows) == LIMIT
    assert rows[0] == other[0]


def test_steps_keep_their_quotas(bundles, tiny):
    """The plan of two steps moves both vectors."""
    two = load_arm("recgpt", bundles["recgpt"], "cpu")
    [result] = two.compute.run([request(two, tiny, rules=LIKE)])
    assert {*result.merged.sources.tolist()} == {0, 1}
    assert ask(two, request(two, tiny, rules=LIKE)) != ask(two, request(two, tiny))


def test_vectors_alone_are_those_of_the_outcome(plain, mixed, tiny, heads):
    [own] = plain.compute.run([request(plain, tiny, limit=0)])
    [asked] = plain.compute.run([request(plain, tiny, rules=LIKE, limit=0)])
    [planned] = mixed.compute.run([request(mixed, tiny, limit=0)])
    assert (asked.vectors.vectors == heads.vectors("like", own.vectors.vectors)).all()
    assert planned.vectors.vectors.shape == (2, own.vectors.vectors.shape[1])


def test_what_a_bundle_does_not_know_is_refused(plain, bundles, tiny):
    with pytest.raises(BadRequest, match="outcome: 'share' is no outcome of it; there are like, follow"):
        request(plain, tiny, rules=ListRules(outcome="share"))
    comirec = load_arm("comirec", bundles["comirec"], "cpu")
    with pytest.raises(BadRequest, match="its training knew none"):
        request(comirec, tiny, rules=LIKE)


def test_a_plan_that_mixes_is_refused_where_a_user_has_several_vectors(checkpoints, heads, tmp_path):
    checkpoint = Checkpoint.load(checkpoints["comirec"])
    plan = ServingPlan(outcomes=(("like", 0.5), ("follow", 0.5)))
    replace(checkpoint, outcomes=heads, plan=plan).save(tmp_path / "c")
    with pytest.raises(ValueError, match="comirec answers with 4 vectors a user; ask for one outcome"):
        build_bundle(tmp_path / "c", tmp_path / "b")


def test_recall_by_outcome_is_that_of_its_targets(plain, tiny):
    from model.data.marks import Marks
    from model.evaluation.protocol import EvalSplit

    liked = Marks(*(part.values % 2 == 0 for part in (tiny.train, tiny.valid, tiny.test)))
    data = replace(tiny, outcomes={"like": liked})
    measured = [*evaluate_outcomes(OfflineArm(plain, data), EvalSplit.of(data, "test"), 50)]
    assert [(own.asked, own.ended) for own in measured] == [(None, "like"), ("like", "like"), ("follow", "like")]
    [own] = {own.users for own in measured}
    assert own == len(data.ended_with("like", "test").users_with_targets("test"))
    hits = [
        len({*rows} & {*data.ended_with("like", "test").targets(user, "test").tolist()})
        for user in data.ended_with("like", "test").users_with_targets("test").tolist()
        for [(rows, _)] in [ask(plain, request(plain, tiny, user, LIKE, 50))]
    ]
    assert measured[1].metrics["recall@50"] == pytest.approx(np.mean(hits))


def test_an_empty_history_can_be_asked_too(plain):
    [(rows, _)] = ask(plain, replace(plain.release.request(None, (), limit=5, rules=LIKE), history=History(())))
    assert len({*rows}) == 5
