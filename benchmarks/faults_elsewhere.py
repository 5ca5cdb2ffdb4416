"""Rows of the fault suite that tests hold, run by pytest, and rows that other studies measure, read from theirs."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.fault_rows import CASES, Case, Outcome

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STORES, HTTP = "tests/service/stores", "tests/service/http"
NUM_PARSERS = 26
MOST_GROWTH = 0.02  # of memory, between a tenth of the inputs and their end
STEADY_MINUTES = 30  # of one process, before its memory says something
Row = dict[str, Any]


def run_tests(*chosen: str) -> Outcome:
    """Passed where tests were run, all of them passed and none was skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-o", "timeout=1200", f"--junitxml={report}", *chosen]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            return f"pytest ended with {ended.returncode}: {ended.stdout[-200:]}{ended.stderr[-200:]}", False
        suite = ElementTree.parse(report).getroot()[0]
    counted = {name: int(suite.get(name, 0)) for name in ("failures", "errors", "skipped")}
    passed = int(suite.get("tests", 0)) - sum(counted.values())
    others = "".join(f", {count} {name}" for name, count in counted.items() if count)
    text = f"{passed} passed{others} in {float(suite.get('time', 0)):.1f} s: {' '.join(chosen)}"
    return text, ended.returncode == 0 and passed > 0 and not any(counted.values())


def commit_of(path: Path) -> str:
    """The commit that last changed a file; empty outside a repository."""
    command = ["git", "log", "-1", "--format=%h", "--", str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip()


def newest(name: str, by: str, is_whole: Callable[[Row], bool] = lambda _: True) -> list[Row]:
    """The last row of each value of a field, or of several with spaces between, of those that are whole."""
    path = RESULTS / name
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [*{name_of(row, by): row for row in rows if is_whole(row)}.values()]


def name_of(row: Row, by: str) -> str:
    return " ".join(str(row.get(field)) for field in by.split())


def read(name: str, by: str, say: Callable[[Row], Outcome], is_whole: Callable[[Row], bool], wanted: int) -> Outcome:
    """Says what the newest rows of a file of results hold: all must pass, and as many as are wanted must be there."""
    rows = newest(name, by, is_whole)
    said = [(row.get("date", "no date"), *say(row)) for row in rows]
    text = "; ".join(
        f"{name_of(row, by)}, {date}: {measured}" for row, (date, measured, _) in zip(rows, said, strict=True)
    )
    passed = len(rows) >= wanted and all(row[2] for row in said)
    return f"{text or 'no such row'} (results/{name}, commit {commit_of(RESULTS / name) or 'none'})", passed


def swaps(row: Row) -> Outcome:
    text = (
        f"{row['swaps']} swaps, {row['failed']} failed and {row['mixed']} mixed of {row['requests']}, "
        f"memory {row['memory_mb']['growth']:+.1%}"
    )
    is_good = not row["failed"] and not row["mixed"] and row["swaps"] >= 50
    return text, is_good and abs(row["memory_mb"]["growth"]) <= 0.05


def kills(row: Row) -> Outcome:
    wrong = [row[f"{kind}_{fate}"] for kind in ("exposures", "feedback") for fate in ("lost", "twice")]
    return f"{row['kills']} kills, {row['events_of_each_kind']} events of each kind, lost or twice {wrong}", not any(
        wrong
    )


def soak(row: Row) -> Outcome:
    # a process that a fault has replaced is young: its memory still rises as at any start
    kept = {name.rpartition(".")[2]: kind for name, kind in row["memory"].items() if kind["minutes"] >= STEADY_MINUTES}
    slopes = {name: kind["share_an_hour"] for name, kind in kept.items()}
    grown = row["descriptors"]["end"] - row["descriptors"]["after_warm_up"]
    text = (
        f"{row['minutes']} minutes, {row['faults']} faults, {row['unexplained_5xx']} unexplained 5xx, "
        f"memory {', '.join(f'{name} {share:+.1%}/h' for name, share in slopes.items())}, descriptors {grown:+}"
    )
    return text, not row["unexplained_5xx"] and max(slopes.values(), default=1.0) <= 0.01 and grown <= 5


def violations(row: Row) -> Outcome:
    text = f"{row['minutes']} minutes, {row['requests']} requests, {row['server_errors']} server errors"
    return f"{text}, {'no' if not row['exit'] else 'some'} violation", bool(row["passed"])


def fuzzed(_: Path) -> Outcome:
    """Every parser's newest row of a million inputs, in one sentence."""
    rows = newest("fuzz.jsonl", "parser", lambda row: row["examples"] >= 1_000_000)
    grown = [row["memory_mb"][-1] / row["memory_mb"][0] - 1 for row in rows]
    failures = sum(row["failed"] for row in rows)
    dates = sorted(row["date"] for row in rows)
    text = (
        f"{len(rows)} of {NUM_PARSERS} parsers, 1e6 inputs each, {failures} failed, memory at most "
        f"{max(grown, default=0):+.1%}, {dates[0] if dates else 'never'} and later (results/fuzz.jsonl, "
        f"commit {commit_of(RESULTS / 'fuzz.jsonl') or 'none'})"
    )
    return text, len(rows) >= NUM_PARSERS and all(row["passed"] for row in rows) and max(grown) < MOST_GROWTH


def rolled_back(row: Row) -> Outcome:
    text = f"out after {row['rolled_back_s']} s, {row['failed']} of {row['answers']} failed"
    return text, row["rolled_back_s"] is not None and row["rolled_back_s"] <= 60 and not row["failed"]


def both(*outcomes: Callable[[], Outcome]) -> Outcome:
    """Several outcomes as one."""
    had = [outcome() for outcome in outcomes]
    return "; ".join(measured for measured, _ in had), all(passed for _, passed in had)


def tests(*chosen: str) -> Callable[[Path], Outcome]:
    return lambda _: run_tests(*chosen)


def results(
    name: str, by: str, say: Callable[[Row], Outcome], wanted: int, is_whole: Callable[[Row], bool] = lambda _: True
) -> Callable[[Path], Outcome]:
    return lambda _: read(name, by, say, is_whole, wanted)


def with_tests(run: Callable[[Path], Outcome], *chosen: str) -> Callable[[Path], Outcome]:
    return lambda bundle: both(partial(run, bundle), partial(run_tests, *chosen))


def named(file: str, *names: str) -> Sequence[str]:
    return [f"{file}::{name}" for name in names]


CASES += [
    Case(4, "Redis out of memory, read-only, loading, wrong password", "0 failed; a counter a cause; log <= 1 line/s",
         tests(f"{STORES}/test_redis_client.py", f"{STORES}/test_redis_causes.py")),
    Case(5, "FLUSHALL; corrupt, truncated, old, NaN values", "computed again; 0 wrong",
         tests(f"{STORES}/test_vector_codec.py", f"{STORES}/test_vector_cache.py", *named(
             f"{HTTP}/test_faults.py", "test_spoiled_cache_value_is_computed_again",
             "test_cache_value_of_another_type_costs_only_a_miss", "test_flushed_redis_is_filled_again"))),
    Case(12, "out of memory in a batch", "batch halved and tried once more; others unaffected",
         tests(*named("tests/service/engine/test_engine.py",
                      "test_a_batch_that_is_too_large_for_the_memory_is_halved_once",
                      "test_memory_that_lacks_in_the_search_halves_too",
                      "test_a_lost_card_ends_the_process_and_a_broken_batch_does_not"))),
    Case(13, "50 hot swaps under load; two reloads at once", "0 errors; 0 mixed; memory +-5 %; one wins, the other 409",
         with_tests(results("hot_swaps.jsonl", "layout", swaps, 2), *named(
             f"{HTTP}/test_reload.py", "test_two_reloads_at_once_are_one"))),
    Case(14, "bad bundles", "refused with a reason before any swap; the old one serves",
         tests("tests/index/bundle/test_refusal.py", "tests/index/bundle/test_signature.py", *named(
             "tests/service/reload/test_reloader.py", "test_a_refused_bundle_leaves_the_old_one_in_force",
             "test_what_breaks_while_loading_is_a_refusal"), *named(
             f"{HTTP}/test_reload.py", "test_a_refused_bundle_changes_nothing_and_is_named"))),
    Case(15, "golden queries below the floor", "refused", tests(
        *named("tests/index/bundle/test_refusal.py", "test_golden_below_the_floor", "test_signed_bad_golden_queries"),
        *named("tests/index/bundle/test_release.py", "test_replay_refuses_another_encoder"))),
    Case(22, "schemathesis, ten minutes", "0 server errors, 0 violations",
         results("schemathesis.jsonl", "minutes", violations, 1, lambda row: row["minutes"] >= 10)),
    Case(26, "broken experiment file", "old configuration stays; the reason is logged and shown",
         tests("tests/service/experiments/test_live.py", f"{HTTP}/test_live_experiments.py")),
    Case(27, "events Redis away; consumer killed", "0 lost, 0 duplicates",
         with_tests(results("consumer_kills.jsonl", "kills", kills, 1), "tests/service/events/test_outbox.py")),
    Case(28, "a user alone and in a batch", "same list; a bad neighbour fails nobody",
         tests(*named("tests/service/engine/test_engine.py", "test_any_batch_answers_like_single_requests",
                      "test_known_vectors_among_new_ones_give_the_same_lists",
                      "test_answers_go_to_those_who_asked"))),
    Case(29, "soak of an hour with a fault a minute", "0 unexplained 5xx; memory <= 1 %/h; descriptors flat",
         results("fault_soak.jsonl", "layout", soak, 2, lambda row: row["minutes"] >= 60)),
    Case(36, "1e6 spoilt inputs of each parser", "0 failed; memory flat",
         fuzzed),
    Case(37, "bad canaries under load", "rolled back by itself within 60 s",
         results("canary.jsonl", "layout case", rolled_back, 6, lambda row: row["case"] != "good")),
]  # fmt: skip
