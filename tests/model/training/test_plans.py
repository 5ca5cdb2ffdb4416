"""The plans that are tried: which, in which order, and what a dearer one has to gain."""

from dataclasses import replace

import pytest

from model.recipes.schema import PlanSearch
from model.records import Placement, PromptForm, PromptPlan, ServingPlan
from model.training.plans import _costs_more, plain_plan, prompt_plans, quota_grid

WIDE = PlanSearch(
    num_prompts=(0, 1, 2),
    placements=(Placement.NONE, Placement.TAIL, Placement.ALL),
    num_steps=(1, 2),
    forms=(PromptForm.ARGMAX, PromptForm.SOFT),
    temperature=0.5,
    sums=(0.3, 1.0),
)


def test_the_plain_search_tries_one_plan():
    assert [*prompt_plans(PlanSearch())] == [PromptPlan()]


def test_no_plan_is_tried_twice_and_each_can_be_served():
    plans = [*prompt_plans(WIDE)]
    assert len({*plans}) == len(plans)
    for plan in plans:
        for quotas in quota_grid(plan.num_vectors):
            ServingPlan(plan, quotas)


def test_placement_none_generates_nothing_and_the_others_something():
    for plan in prompt_plans(WIDE):
        assert (plan.num_prompts == 0) is (plan.placement is Placement.NONE)


def test_inside_a_history_items_are_those_that_rank_first():
    forms = {plan.form for plan in prompt_plans(WIDE) if plan.placement is Placement.ALL}
    assert forms == {PromptForm.ARGMAX}


def test_steps_are_tried_apart_and_joined_by_each_weight():
    weights = {plan.step_weights for plan in prompt_plans(WIDE) if plan.num_steps == 2 and not plan.num_prompts}
    assert weights == {(), (1.0, 0.3), (1.0, 1.0)}


def test_only_soft_items_have_the_searchs_temperature():
    assert {(plan.form, plan.temperature) for plan in prompt_plans(WIDE)} == {
        (PromptForm.ARGMAX, 1.0),
        (PromptForm.SOFT, 0.5),
    }


def test_two_steps_share_a_list_in_tenths():
    assert [*quota_grid(2)] == [(first, 10 - first) for first in range(9, 0, -1)]


@pytest.mark.parametrize("num_steps", [3, 4, 8])
def test_steps_after_the_first_share_the_rest_evenly(num_steps):
    for quotas in quota_grid(num_steps):
        assert len(quotas) == num_steps
        assert len({*quotas[1:]}) == 1
        assert (10 * quotas[0]) % sum(quotas) == 0


def test_one_vector_has_no_quotas():
    assert [*quota_grid(1)] == [()]


@pytest.mark.parametrize(
    ("change", "costs"),
    [
        ({}, False),
        ({"step_weights": (1.0, 0.5)}, False),
        ({"num_steps": 3}, True),
        ({"num_prompts": 1, "placement": Placement.TAIL}, True),
    ],
)
def test_another_way_to_join_the_same_steps_costs_nothing_more(change, costs):
    two = PromptPlan(num_steps=2)
    assert _costs_more(replace(two, **change), ServingPlan(two)) is costs


def test_epochs_are_compared_by_the_prompts_that_training_put():
    assert plain_plan(PlanSearch(), num_prompts=2).prompts == PromptPlan(2, Placement.ALL)
    assert plain_plan(PlanSearch(diversity=0.1)).diversity == 0.1


def test_steps_that_training_had_are_one_query_of_equal_weights():
    plan = plain_plan(WIDE, num_steps=3).prompts
    assert (plan.form, plan.step_weights, plan.temperature) == (PromptForm.SOFT, (1.0, 1.0, 1.0), 0.5)
