"""recall export: killed and resumed, over prepared folders and logs as they are; refusals in one sentence."""

import importlib.util
import os
import time

import polars as pl
import psutil
import pytest

from service.export.parts import unfinished_folder
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    tiny.save(folder / "data")
    return folder


@pytest.fixture(scope="module")
def options(folder, bundles):
    return {"--bundle": bundles["recgpt"], "--data": folder / "data", "--top-n": 20}


def words(options, output, *more):
    return ["export", *(word for pair in options.items() for word in pair), "--output", output, *more]


def wait_for_part(output, process):
    """Returns once a part is there or the process has ended."""
    while not list(unfinished_folder(output).glob("0*.arrow")) and process.poll() is None:
        time.sleep(0.001)


@pytest.fixture(scope="module")
def whole(run_recall, options, folder):
    ended = run_recall(*words(options, folder / "whole.parquet", "--part-users", 2))
    assert ended.status == 0, ended.err
    assert ended.last_line["users"] == 50
    return (folder / "whole.parquet").read_bytes()


def test_killed_and_resumed_it_ends_with_the_same_file(forker, run_recall, options, folder, whole):
    output, said = folder / "killed.parquet", folder / "said"
    command = words(options, output, "--part-users", 2)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 0
    for _ in range(3):
        process = forker.start(command, environment, said, said)
        wait_for_part(output, process)
        process.kill()
        kills += process.wait() < 0
    assert kills, "each export had ended before it was killed: the test proves less than it says"
    ended = run_recall(*command)
    assert ended.status == 0, ended.err
    assert "users of an interrupted export" in ended.err
    assert output.read_bytes() == whole
    assert not unfinished_folder(output).exists()


def test_a_log_is_exported_as_it_is(tiny, run_recall, options, folder):
    """The same events as text, in their order: the same lists."""
    users, items = tiny.catalogue.users, tiny.catalogue.items
    rows = [
        f"{user},{item},{time}"
        for row, user in enumerate(users.ids.tolist(), start=1)
        for time, item in enumerate(items.external([*tiny.history(row, "test").tolist(), *tiny.test[row - 1].tolist()]))
    ]
    (folder / "log.csv").write_text("\n".join(["user,item,time", *rows]))
    ended = run_recall(*words(options | {"--data": folder / "log.csv"}, folder / "log.parquet"))
    assert ended.status == 0, ended.err
    assert "format: csv" in ended.err
    ours, theirs = pl.read_parquet(folder / "log.parquet"), folder / "data.parquet"
    assert run_recall(*words(options, theirs)).status == 0
    assert ours.equals(pl.read_parquet(theirs))


def test_it_says_that_parts_were_of_another_export(forker, run_recall, options, folder):
    output, said = folder / "other.parquet", folder / "said"
    process = forker.start(words(options, output, "--part-users", 2), {**os.environ}, said, said)
    wait_for_part(output, process)
    process.kill()
    process.wait()
    ended = run_recall(*words(options | {"--top-n": 21}, output))
    assert ended.status == 0, ended.err
    assert "starts at the first user" in ended.err
    assert "users of an interrupted export" not in ended.err


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"--output": "lists.csv"}, "does not end in .parquet"),
        ({"--output": "data/lists.parquet"}, "which it is made from"),
        ({"--output": "."}, "does not end in .parquet"),
        ({"--before": "train"}, "before is valid or test"),
        ({"--bundle": "data"}, "is refused"),
        ({"--data": "nowhere"}, "nowhere"),
        ({"--top-n": "0"}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_mistakes_are_refused_in_a_sentence(run_recall, options, folder, given, sentence):
    paths = ("--output", "--bundle", "--data")
    given = {name: folder / value if name in paths else value for name, value in given.items()}
    given = options | {"--output": folder / "refused.parquet"} | given
    ended = run_recall("export", *(word for pair in given.items() for word in pair))
    assert ended.status == 2
    assert sentence in ended.sentence
    assert not (folder / "refused.parquet").exists()


def test_a_log_has_no_split_to_leave_out(run_recall, options, folder):
    (folder / "short.csv").write_text("user,item,time\n1,10001,1\n2,10008,2\n")
    ended = run_recall(*words(options | {"--data": folder / "short.csv"}, folder / "x.parquet", "--before", "test"))
    assert ended.status == 2
    assert "has no test split" in ended.err


def has_ray():
    return all(importlib.util.find_spec(name) for name in ("ray", "pandas", "pyarrow"))


@pytest.mark.skipif(has_ray(), reason="Ray is installed")
def test_without_ray_its_workers_are_refused(run_recall, options, folder):
    ended = run_recall(*words(options, folder / "refused.parquet", "--ray-workers", 2))
    assert ended.status == 2
    assert "pip install 'recgpt-recall[ray]'" in ended.sentence
    assert not unfinished_folder(folder / "refused.parquet").exists()


@pytest.mark.timeout(400)
@pytest.mark.skipif(not has_ray(), reason="Ray is not installed: pip install 'recgpt-recall[ray]'")
def test_killed_on_ray_and_resumed_it_ends_with_the_same_file(forker, run_recall, options, folder, whole):
    """Its workers end with it; what they had made stays."""
    output, said = folder / "ray.parquet", folder / "said"
    command = words(options, output, "--part-users", 2, "--ray-workers", 2)
    process = forker.start(command, {**os.environ}, said, said)
    wait_for_part(output, process)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "PartWorker" in child.name()]
    process.kill()
    assert process.wait() < 0, "the export had ended before it was killed: the test proves less than it says"
    assert workers
    wait_for(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))
    ended = run_recall(*command)
    assert ended.status == 0, ended.err
    assert "users of an interrupted export" in ended.err
    assert output.read_bytes() == whole
