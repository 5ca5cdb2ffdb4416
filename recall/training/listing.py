"""The recipes that there are, as `recall train --help` lists them: read from the recipe files."""

from collections.abc import Iterator
from typing import Any

from model.recipes.files import RecipeName, load_recipe, read_sections, recipe_names
from recall.options import StrictCommand

INTRODUCTION = (
    "Recipes, their arms, and the epochs that each trains at most (stages joined by +, parts of a blend by &; 0 = not "
    "trained); validation may stop a stage earlier. NAME:paper has the settings of the paper where there are such. "
    "Measured quality: docs/results.md."
)
# rows of benchmarks/results/quality.jsonl, data set kuairand; recgpt with bf16: docs/quality.md
COSTS = (
    "Cost: it grows with the events and the epochs. 391,000 events of 27,285 users on 7,583 items (KuaiRand-Pure), one "
    "thread of a server, to the end: popularity 1 s; bpr 1 minute; caser, fism 2; stamp, sasrec 3; gru4rec, comirec 4; "
    "narm, bert4rec 6; recgpt, with its item-item part, 11 on a processor with bf16 and 24 on one without."
)


class TrainHelp(StrictCommand):
    """The command `train`, whose help ends with the recipes; they are read only when it is asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(INTRODUCTION)
        formatter.write_paragraph()
        formatter.write_text(COSTS)
        with formatter.section("Recipes"):
            formatter.write_dl(list(recipe_lines()))


def recipe_lines() -> Iterator[tuple[str, str]]:
    """The name of each recipe, and its arms with their epochs."""
    for name in recipe_names():
        arms = read_sections(RecipeName.of(name))
        yield name, ", ".join(f"{arm} {num_epochs(name, arm)}" for arm in arms)


def num_epochs(recipe: str, arm: str) -> str:
    """6+20 of two stages, 20&6+20 of a blend."""
    chosen = load_recipe(recipe, arm)
    parts = chosen.parts or (chosen,)
    return "&".join("+".join(str(stage.num_epochs) for stage in part.stages) or "0" for part in parts)
