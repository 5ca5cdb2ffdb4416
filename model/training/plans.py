"""Chooses the plan that an arm serves on the validation split: prompt placement, count and quotas m : n."""

from collections.abc import Iterator
from dataclasses import replace

from model.evaluation.protocol import EvalSplit, top_lists
from model.networks.base import Network
from model.recipes.schema import PlanSearch
from model.records import Placement, PromptForm, PromptPlan, ServingPlan

SHARES = 10  # quotas are tried in tenths of the list


def plain_plan(search: PlanSearch, num_prompts: int = 0, num_steps: int = 1) -> ServingPlan:
    """The plan that epochs are compared by: prompts where training put them, the steps that it had as one query."""
    placement = Placement.ALL if num_prompts else Placement.NONE
    prompts = PromptPlan(num_prompts, placement)
    if num_steps > 1:
        prompts = PromptPlan(0, placement, num_steps, PromptForm.SOFT, search.temperature, (1.0,) * num_steps)
    return ServingPlan(prompts, diversity=search.diversity)


def measure_plan(network: Network, eval_split: EvalSplit, plan: ServingPlan, metric: str) -> float:
    """One metric (name@k) of one plan."""
    cutoff = int(metric.split("@")[1])
    lists = top_lists(network, eval_split, plan.prompts, cutoff).merged(plan, cutoff)
    return eval_split.score(lists, [cutoff])[metric]


def prompt_plans(search: PlanSearch) -> Iterator[PromptPlan]:
    for placement in search.placements:
        counts = [0] if placement is Placement.NONE else [count for count in search.num_prompts if count]
        for count in counts:
            for num_steps in search.num_steps:
                yield from _step_plans(PromptPlan(count, placement, num_steps), search)


def _step_plans(plan: PromptPlan, search: PlanSearch) -> Iterator[PromptPlan]:
    """The forms of what is generated behind the end, and for each the steps apart, then as one query."""
    if plan.placement is Placement.ALL or plan.num_prompts + plan.num_steps == 1:
        yield plan
        return
    for form in search.forms:
        formed = replace(plan, form=form, temperature=search.temperature if form is PromptForm.SOFT else 1.0)
        yield formed
        for weight in search.sums if plan.num_steps > 1 else ():
            yield replace(formed, step_weights=(1.0, *[weight] * (plan.num_steps - 1)))


def quota_grid(num_steps: int) -> Iterator[tuple[int, ...]]:
    """(9, 1) .. (1, 9) for two steps; with more, those after the first share the rest evenly. One step: none."""
    if num_steps == 1:
        yield ()
        return
    for first in range(SHARES - 1, 0, -1):
        rest = num_steps - 1
        yield (first * rest, *[SHARES - first] * rest)


def _costs_more(prompts: PromptPlan, than: ServingPlan) -> bool:
    """Tells if a plan generates other items than the one before it, which was cheaper."""
    ours, theirs = ((plan.placement, plan.num_prompts, plan.num_steps) for plan in (prompts, than.prompts))
    return ours != theirs


def choose_plan(
    network: Network, eval_split: EvalSplit, search: PlanSearch, metric: str
) -> tuple[ServingPlan, dict[str, float]]:
    """The plan with the highest `metric`, tried from cheap to dear, and its metrics at the search's cutoff.

    Less than `min_gain` is noise, and not worth what generation costs in every request.
    """
    best: tuple[float, ServingPlan, dict[str, float]] | None = None
    cutoffs = sorted({search.cutoff, int(metric.split("@")[1])})
    # the lists of a prompt plan are computed once; all quotas are tried on them
    for prompts in prompt_plans(search):
        lists = top_lists(network, eval_split, prompts, cutoffs[-1])
        for quotas in quota_grid(prompts.num_vectors):
            plan = ServingPlan(prompts, quotas, search.diversity)
            metrics = eval_split.score(lists.merged(plan, cutoffs[-1]), cutoffs)
            # another way to join the same steps costs nothing more to serve: there any gain counts
            if best is None or metrics[metric] > best[0] * (1 + search.min_gain * _costs_more(prompts, best[1])):
                best = (metrics[metric], plan, metrics)
    assert best is not None  # noqa: S101  (placements is never empty)
    return best[1], best[2]
