"""The tables of docs/online-ab.md from the newest row of each audience in benchmarks/results/replay.jsonl.

A table stands between `<!-- NAME AUDIENCE -->` and `<!-- / -->`; the text around it is written by hand.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("online-ab.md")
ROWS = PAGE.parents[1] / "benchmarks" / "results" / "replay.jsonl"
MARK = re.compile(r"(<!-- (\w+) (\w+) -->\n).*?(<!-- / -->)", re.DOTALL)
EXPECTED = "_expected"
KNOWN = {"kuairec": "watch times", "kuairand": "reactions"}
Result = dict[str, Any]
Cells = Iterator[list[str]]


def read_rows() -> dict[str, Result]:
    """The last result of each audience."""
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    return {row["audience"]: row for row in map(json.loads, lines)}


def page() -> str:
    """The page with its tables written anew; a table that no row gives stays as it is."""
    rows = read_rows()

    def write(mark: re.Match[str]) -> str:
        head, name, audience, end = mark.groups()
        row = rows.get(audience, {})
        return f"{head}{TABLES[name](row)}\n{end}" if row and (name == "facts" or name in row) else mark[0]

    return MARK.sub(write, PAGE.read_text(encoding="utf-8"))


def percent(value: float) -> str:
    return f"{100 * value:+.2f}"


def interval(bounds: list[float]) -> str:
    low, high = map(percent, bounds)
    return f"{low} .. {high}"


def title(metric: str) -> str:
    """'likes_expected' -> 'likes, expected'; 'plays_list_2' -> 'plays of list 2'."""
    metric = metric.replace("_list_", " of list ")
    return metric.removesuffix(EXPECTED).replace("_", " ") + (", expected" if metric.endswith(EXPECTED) else "")


def twins(result: Result) -> str:
    """Lifts in %, of every list length of popular videos left out."""
    head = ["left out", "metric", "ComiRec", "RecGPT", "lift %", "fixed 95 %", "always valid 95 %", "correlation"]
    return table(head, twin_cells(result))


def twin_cells(result: Result) -> Cells:
    for dropped, rows in result["twins"].items():
        for row in rows:
            means = [f"{row[arm]:.4g}" for arm in ("control", "treatment")]
            intervals = [interval(row["fixed"]), interval(row["always_valid"])]
            yield [dropped, title(row["metric"]), *means, percent(row["lift"]), *intervals, f"{row['correlation']:.2f}"]


def trial(result: Result) -> str:
    """The verdict of the A/B run, with the twins' lift beside it."""
    head = ["metric", "ComiRec", "RecGPT", "lift %", "fixed 95 %", "always valid 95 %", "true lift %", "verdict"]
    return table(head, trial_cells(result))


def trial_cells(result: Result) -> Cells:
    truth = {row["metric"]: row["lift"] for row in result["twins"]["0"]}
    for row in result["trial"]["verdict"]["metrics"]:
        lift, means = row["relative"], [f"{row[arm]:.4g}" for arm in ("control_value", "treatment_value")]
        intervals = [interval(lift["fixed"]), interval(lift["always_valid"])]
        name = row["metric"]
        yield [title(name), *means, percent(lift["estimate"]), *intervals, percent(truth[name]), row["decision"]]


def salts(result: Result) -> str:
    """Shares of the salts under which the intervals of the same test held."""
    head = ["metric", "salts", "covered, users drawn anew", "covered, same users", "A/A alarms", "A/A, any of 40 looks"]
    names = ("covered_anew", "covered_same", "false_alarms", "ever_alarms")
    rows = result["salts"].items()
    return table(
        head,
        ([title(metric), str(row["salts"]), *(f"{100 * row[name]:.1f} %" for name in names)] for metric, row in rows),
    )


def interleaved(result: Result) -> str:
    """Whom users of interleaved lists prefer, and how often a draw of 500 of them has the sign of the twins' lift."""
    head = ["left out", "metric", "true lift %", "users prefer ComiRec", "RecGPT", "draws agree", "clear", "and wrong"]
    return table(head, interleaved_cells(result))


def interleaved_cells(result: Result) -> Cells:
    for dropped, rows in result["interleaved"].items():
        for row in rows:
            preferring = [f"{row[name]:,}" for name in ("prefer_control", "prefer_treatment")]
            rates = [f"{100 * row[name]:.1f} %" for name in ("agrees", "clear", "clear_and_wrong")]
            yield [dropped, title(row["metric"]), percent(row["lift"]), *preferring, *rates]


def facts(result: Result) -> str:
    """One paragraph: sizes, seed, bundles, digest, machine."""
    bundles = ", ".join(f"{arm} `{digest[:12]}`" for arm, digest in result["bundles"].items())
    split, run = result["trial"]["verdict"]["sample_ratio"], result["trial"]
    known = f"{100 * result['real_share']:.1f} % of {result['shown']:,.0f} {KNOWN[result['audience']]}"
    sentences = [
        f"{result['users']:,} users, {result['sessions']} lists of {result['top_n']}, seed {result['seed']}",
        f"bundles {bundles}",
        f"digest of the twins' rows `{result['digest']}`",
        f"{known} come from the data, the others from a model",
        f"lists that a busy machine changed: {result['disturbed']:.0f}",
        f"A/B run: {run['users']:,} users in the event log, {run['differing']} of them differ from their twin",
        f"sample ratio {split['state']} (p {split['p']:.2f})",
        f"{result['machine']}, {result['date']}",
    ]
    return "; ".join(sentences) + "."


def calibration(result: Result) -> str:
    """Rates by fifths of the pairs, from the least likely to the most: modelled / observed."""
    rows = ([metric, *(f"{a:.4f} / {b:.4f}" for a, b in fifths)] for metric, fifths in result["calibration"].items())
    return table(["chance", *(f"fifth {n}" for n in range(1, 6))], rows)


def table(head: list[str], rows: Cells) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES: dict[str, Callable[[Result], str]] = {
    "twins": twins,
    "trial": trial,
    "salts": salts,
    "interleaved": interleaved,
    "facts": facts,
    "calibration": calibration,
}
