"""Exported lists are those of the service, whatever interrupted their writing."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from model.catalogue import Ragged
from model.checkpoint import Checkpoint
from model.folders.files import FolderRefused
from service.engine.loading import load_arm
from service.export.export import ListExport
from service.export.histories import UserHistories
from service.export.parts import PartFolder, unfinished_folder

TOP_N = 20


class Stopped(Exception):
    """Stands for whatever ends an export."""


@pytest.fixture(scope="module")
def data(tiny, checkpoints):
    """The same events under the ids of each bundle: integers, or strings."""
    words = replace(tiny, catalogue=Checkpoint.load(checkpoints["words"]).catalogue)
    return {"recgpt": tiny, "comirec": tiny, "words": words}


@pytest.fixture(scope="module")
def loaded(bundles):
    return {arm: load_arm(arm, bundles[arm], "cpu") for arm in ("recgpt", "comirec", "words")}


def export(wanted, output, on_progress=lambda done: None, resumes=True):
    with PartFolder.opened(output, wanted.facts("cpu"), resumes) as parts:
        wanted.run(parts, on_progress)
    return output


@pytest.mark.parametrize("arm", ["recgpt", "comirec", "words"])
def test_lists_are_those_of_the_service(data, loaded, client, recall, tmp_path, arm):
    histories = UserHistories.of(data[arm])
    wanted = ListExport(loaded[arm], histories, TOP_N, part_users=16)
    rows = pl.read_parquet(export(wanted, tmp_path / "lists.parquet")).to_dicts()
    members = [
        {"user_id": user, "history": history, "top_n": TOP_N, "explain": True}
        for user, history in histories.of_users(range(len(histories)))
    ]
    answers = recall("/recall/batch", requests=members, arm=arm)["responses"]
    fields = ("items", "scores", "sources", "degraded", "bundle")
    told = [{name: answer[name] for name in fields} for answer in answers]
    ours = [{name: row[name] for name in fields} for row in rows]
    for own, theirs in zip(ours, told, strict=True):
        assert own.pop("scores") == pytest.approx(theirs.pop("scores"), rel=1e-6)
    assert ours == told
    assert [row["user"] for row in rows] == data[arm].catalogue.users.ids.tolist()


@pytest.mark.parametrize(("before", "lengths"), [("valid", 0), ("test", 1), (None, 2)])
def test_history_ends_before_the_split_that_is_left_out(tiny, before, lengths):
    histories = UserHistories.of(tiny, before)
    assert (histories.items.lengths - tiny.train.lengths == lengths).all()
    if before:
        own = [histories.items[user].tolist() for user in range(len(histories))]
        assert own == [tiny.history(user + 1, before).tolist() for user in range(len(histories))]


def test_lists_may_be_short_and_say_why(tiny, loaded, known, tmp_path):
    """Users who know nothing, a bit, all but seven items, and all of them."""
    lengths = [0, 5, len(known) - 7, len(known)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    seen = Ragged(offsets, np.concatenate([np.arange(1, length + 1) for length in lengths]).astype(np.int32))
    wanted = ListExport(loaded["recgpt"], UserHistories(tiny, seen), TOP_N)
    table = pl.read_parquet(export(wanted, tmp_path / "lists.parquet"))
    assert table["items"].list.len().to_list() == [TOP_N, TOP_N, 7, 0]
    assert "cold_start" in table["degraded"][0]
    assert sorted(table["items"][2]) == known[-7:]


@pytest.mark.parametrize("stop_at", [0, 1, 17, 49, 50])
def test_an_interrupted_export_goes_on_and_ends_with_the_same_file(data, loaded, tmp_path, stop_at):
    wanted = ListExport(loaded["recgpt"], UserHistories.of(data["recgpt"]), TOP_N, part_users=8)
    whole = export(wanted, tmp_path / "whole.parquet").read_bytes()
    output = tmp_path / "lists.parquet"

    def stop(done):
        if done >= stop_at:
            raise Stopped

    with pytest.raises(Stopped):
        export(wanted, output, stop)
    assert not output.exists()
    told = []
    assert export(wanted, output, told.append).read_bytes() == whole
    assert told[0] == stop_at // 8 * 8 if stop_at < 50 else told[0] >= 40
    assert not unfinished_folder(output).exists()


def test_parts_of_another_export_are_not_gone_on_with(data, loaded, tmp_path):
    output, told = tmp_path / "lists.parquet", []
    histories = UserHistories.of(data["recgpt"])

    def stop(done):
        if done > 30:
            raise Stopped

    with pytest.raises(Stopped):
        export(ListExport(loaded["recgpt"], histories, TOP_N, part_users=8), output, stop)
    export(ListExport(loaded["recgpt"], histories, TOP_N + 1, part_users=8), output, told.append)
    assert told[0] == 0
    assert pl.read_parquet(output)["items"].list.len().max() == TOP_N + 1


def test_one_process_writes_a_file(data, loaded, tmp_path):
    output = tmp_path / "lists.parquet"
    wanted = ListExport(loaded["recgpt"], UserHistories.of(data["recgpt"]), TOP_N)
    with (
        PartFolder.opened(output, wanted.facts("cpu")),
        pytest.raises(FolderRefused, match="is being written by another process"),
    ):
        export(wanted, output)


def test_a_damaged_part_is_refused(data, loaded, tmp_path):
    output = tmp_path / "lists.parquet"
    wanted = ListExport(loaded["recgpt"], UserHistories.of(data["recgpt"]), TOP_N, part_users=25)
    with PartFolder.opened(output, wanted.facts("cpu")) as parts:
        (parts.path / "00000001.arrow").write_bytes(b"ARROW1")
        with pytest.raises(FolderRefused, match="--no-resume starts anew"):
            wanted.run(parts)
    assert export(wanted, output, resumes=False).exists()
