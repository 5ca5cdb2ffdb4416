"""docs/results-provenance.md from the rows: where each figure of docs/results.md comes from, and its command."""

from collections.abc import Iterator, Sequence

from recall.reproduction.cells import ABLATION, RECIPES, Cell, Dataset, Published, ResultsTable, table
from recall.reproduction.results import Row, settings_digest

HEAD = """# Where the results come from

Written by `recall reproduce` from [quality.jsonl](../benchmarks/results/quality.jsonl), for the figures of
[results.md](results.md). Every command runs in the folder of the checkout with the data in `../shared/data`, and skips
what quality.jsonl has already. Epochs and seconds are means over the seeds. Recipe: the digest of the recipe that was
trained. Settings: recipe, network and serving plan of a run, one line a digest in
[settings.jsonl](../benchmarks/results/settings.jsonl); seeds differ where validation chose another plan for each."""
COLUMNS = ("system", "recipe", "seeds", "epochs", "seconds", "machine", "date", "commit", "recipe digest", "settings")


def render(rows: Sequence[Row], published: Published | None = None) -> str:
    """The whole page."""
    published = published or Published.load()
    cells = ResultsTable(rows)
    sections = [_section(cells, dataset, published) for dataset in published.datasets]
    return "\n\n".join([HEAD, *sections]) + "\n"


def _section(cells: ResultsTable, dataset: Dataset, published: Published) -> str:
    lines = [*_runs(cells, dataset, published)]
    title = f"## {dataset.title}"
    if not lines:
        return f"{title}\n\nNothing of this data set has been run yet."
    return f"{title}\n\n{table([*COLUMNS, 'command'], lines)}"


def _runs(cells: ResultsTable, dataset: Dataset, published: Published) -> Iterator[list[str]]:
    for system, label in published.systems.items():
        for recipe in RECIPES:
            # one run measures all splits, so the first of them knows the command
            cell = cells.cell(dataset.name, system, recipe, dataset.splits[0])
            if cell.rows:
                yield [label, recipe, *_facts(cell), f"`{command(dataset.name, cell.rows)}`"]
    yield from _ablation(cells, dataset, published)


def _ablation(cells: ResultsTable, dataset: Dataset, published: Published) -> Iterator[list[str]]:
    for name, variant in published.ablation.items():
        cell = cells.cell(dataset.name, name, ABLATION, dataset.splits[0])
        if cell.rows:
            yield [variant.label, ABLATION, *_facts(cell), f"`{command(dataset.name, cell.rows)}`"]


def _facts(cell: Cell) -> list[str]:
    rows = cell.rows
    digests = [settings_digest(row.settings) if row.settings else None for row in rows]
    return [
        ", ".join(str(row.seed) for row in rows),
        cell.mean("epochs"),
        cell.mean("seconds"),
        cell.each(row.machine for row in rows),
        cell.each(row.date for row in rows),
        cell.each(row.versions.get("commit") for row in rows),
        cell.each(row.recipe_digest for row in rows),
        cell.each(digests),
    ]


def command(dataset: str, rows: Sequence[Row]) -> str:
    """The command that gives these rows."""
    # seeds are 0 .. N-1, and --seeds takes N
    seeds = 1 + max(row.seed for row in rows)
    options = f"--datasets {dataset} --systems {rows[0].system} --recipe {rows[0].recipe} --seeds {seeds}"
    return f"recall reproduce --data ../shared/data {options}"
