"""Plans that cannot be served are refused when they are made, with the sentence that says which number is wrong."""

import pytest

from model.records import Placement, PromptForm, PromptPlan, ServingPlan


@pytest.mark.parametrize("wrong", [-1, 7])
def test_prompts_beyond_the_papers_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"num_prompts is {wrong}; it must be 0 to 6"):
        PromptPlan(num_prompts=wrong)


@pytest.mark.parametrize("wrong", [0, 9])
def test_a_plan_has_one_step_to_eight(wrong):
    with pytest.raises(ValueError, match=f"num_steps is {wrong}; it must be 1 to 8"):
        PromptPlan(num_steps=wrong)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_a_temperature_is_above_zero(wrong):
    with pytest.raises(ValueError, match="it must be above 0"):
        PromptPlan(temperature=wrong)


def test_each_step_has_a_weight_or_none_has():
    with pytest.raises(ValueError, match="one for each of 3 steps is needed"):
        PromptPlan(num_steps=3, step_weights=(1.0, 0.5))


def test_soft_items_do_not_go_inside_a_history():
    with pytest.raises(ValueError, match="placement all takes argmax items"):
        PromptPlan(1, Placement.ALL, form=PromptForm.SOFT)


def test_weighted_steps_are_one_query_vector():
    assert PromptPlan(num_steps=3).num_vectors == 3
    assert PromptPlan(num_steps=3, step_weights=(1.0, 0.5, 0.2)).num_vectors == 1


@pytest.mark.parametrize("wrong", [(1,), (1, 1, 1), (1, 0), (3, -1)])
def test_quotas_are_one_above_zero_for_each_vector(wrong):
    with pytest.raises(ValueError, match="one above 0 for each of 2 steps is needed"):
        ServingPlan(PromptPlan(num_steps=2), quotas=wrong)


def test_quotas_follow_the_vectors_not_the_steps():
    joined = PromptPlan(num_steps=2, step_weights=(1.0, 1.0))
    with pytest.raises(ValueError, match="for each of 1 steps"):
        ServingPlan(joined, quotas=(7, 3))
