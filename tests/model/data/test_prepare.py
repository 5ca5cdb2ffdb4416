"""`prepare`: every format to a prepared data set; options that do not fit together are refused."""

import json
from pathlib import Path

import pytest

from model.data.prepare import PrepareOptions, prepare
from model.data.sequences import SequenceData
from model.data.splits import TimeCut
from model.data.synthetic import SyntheticSpec
from model.logs.columns import LogShape
from model.logs.events import DataError
from model.positive import PositiveRule

SMALL = SyntheticSpec(num_users=50, num_items=60, num_topics=6)
CSV = "user,item,time,like\n" + "".join(f"u{user},{item},{item},{item % 2}\n" for user in range(3) for item in range(8))


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "views.csv"
    path.write_text(CSV)
    return path


def test_synthetic_needs_nothing():
    data, report = prepare(PrepareOptions(synthetic=SMALL))
    assert (data.name, data.protocol, len(data.catalogue.users)) == ("synthetic", "leave-one-out", 50)
    assert report.rows_kept == sum(len(part.values) for part in (data.train, data.valid, data.test))


def test_synthetic_has_topics_as_categories():
    categories = prepare(PrepareOptions(synthetic=SMALL))[0].catalogue.categories
    assert set(categories.lengths) == {1}
    assert set(categories.values) == set(range(6))


def test_csv_takes_its_name_from_the_file(log):
    data, report = prepare(PrepareOptions("csv", log))
    assert (data.name, report.rows_read) == ("views", 24)
    assert data.catalogue.users.ids.tolist() == ["u0", "u1", "u2"]


def test_positives_and_core_apply(log):
    data, report = prepare(PrepareOptions("csv", log, positive=PositiveRule(any_of=("like",)), k_core=3))
    assert data.catalogue.items.ids.tolist() == [1, 3, 5, 7]
    assert report.rows_kept == 24


def test_split_by_time(log):
    data, _ = prepare(PrepareOptions("csv", log, split="by-time", cut=TimeCut(5, 7)))
    assert [len(part.values) for part in (data.train, data.valid, data.test)] == [15, 6, 3]


def test_the_format_is_guessed_and_said(log):
    data, report = prepare(PrepareOptions(input=log))
    assert (data.name, report.notes[0]) == ("views", "format: csv")


def test_a_cut_may_be_a_date(log):
    log.write_text("user,item,time\n" + "".join(f"1,{n},2024-01-0{n} 12:00:00\n" for n in range(1, 8)))
    cut = TimeCut("2024-01-03", "2024-01-06T12:00:00Z")
    data, _ = prepare(PrepareOptions(input=log, split="by-time", cut=cut))
    assert [len(part.values) for part in (data.train, data.valid, data.test)] == [2, 3, 2]


def test_a_cut_by_a_date_needs_times_of_a_known_unit(log):
    with pytest.raises(DataError, match="is a date, and the log's times are numbers of no known unit"):
        prepare(PrepareOptions(input=log, split="by-time", cut=TimeCut("2024-01-03", "2024-01-06")))


def test_pairs_in_order_cannot_be_cut_by_time(log):
    log.write_text("1 2\n1 3\n1 4\n")
    with pytest.raises(DataError, match="the log has no times"):
        prepare(PrepareOptions(input=log, split="by-time"))


def test_the_summary_counts_positives_and_items_never_trained_on(log):
    _, report = prepare(PrepareOptions(input=log, positive=PositiveRule(any_of=("like",))))
    assert "positives: 12 of 24 events" in report.notes
    assert any(note.startswith("items without a training event: 2 of 4; ") for note in report.notes)
    assert any("6 targets are such" in note for note in report.notes)


REWATCHED = "user,item,time\n" + "".join(f"{user},{item},{n}\n" for user in (1, 2) for n, item in enumerate("abcda"))


def test_targets_that_were_seen_are_left_out_and_counted(log):
    log.write_text(REWATCHED + "3,a,1\n3,b,2\n3,c,3\n")
    data, report = prepare(PrepareOptions(input=log))
    assert (data.users_with_targets("valid").tolist(), data.users_with_targets("test").tolist()) == ([1, 2, 3], [3])
    assert any(note.startswith("test: 2 targets stand in their user's history already") for note in report.notes)
    assert data.history(1, "test").tolist() == [1, 2, 3, 4]


def test_what_counts_as_a_target_is_kept_with_the_data(log):
    log.write_text(REWATCHED + "3,a,1\n3,b,2\n3,c,3\n")
    data, folder = prepare(PrepareOptions(input=log))[0], log.parent / "data"
    data.save(folder)
    assert SequenceData.load(folder).users_with_targets("test").tolist() == [3]
    assert SequenceData.load(folder).digest == data.digest
    meta = json.loads((folder / "dataset.json").read_text())
    del meta["seen_targets"]  # as earlier versions wrote it, without a manifest
    meta["format"] = 1
    (folder / "manifest.json").unlink()
    (folder / "dataset.json").write_text(json.dumps(meta))
    assert SequenceData.load(folder).users_with_targets("test").tolist() == [1, 2, 3]


def test_a_log_in_which_nothing_can_be_measured_is_refused(log):
    log.write_text(REWATCHED)
    with pytest.raises(DataError, match="each of the 2 test targets stands in its user's history already"):
        prepare(PrepareOptions(input=log))


def test_published_data_keep_the_targets_that_were_seen(log):
    log.write_text("1 5 6 7 5\n")
    data, report = prepare(PrepareOptions("s3rec", log))
    assert data.users_with_targets("test").tolist() == [1]
    assert any("count as misses" in note for note in report.notes)


def test_bad_rows_above_the_share_stop(log):
    log.write_text(CSV + "u1,9\n")
    with pytest.raises(DataError, match=r"1 of 25 rows are bad.*line 26: 2 fields; there must be 4"):
        prepare(PrepareOptions("csv", log))


def test_bad_rows_below_the_share_are_counted(log):
    log.write_text(CSV + "u1,9\n")
    assert prepare(PrepareOptions("csv", log, max_bad_share=0.05))[1].rows_bad == 1


def test_s3rec_finds_its_attributes(tmp_path):
    (tmp_path / "tiny.txt").write_text("1 1 2 3\n")
    (tmp_path / "tiny_item2attributes.json").write_text(json.dumps({"1": [4], "3": [4, 9]}))
    categories = prepare(PrepareOptions("s3rec", tmp_path / "tiny.txt"))[0].catalogue.categories
    assert [categories[row].tolist() for row in range(3)] == [[0], [], [0, 1]]


def test_s3rec_without_attributes_has_no_categories(tmp_path):
    (tmp_path / "tiny.txt").write_text("1 1 2 3\n")
    assert prepare(PrepareOptions("s3rec", tmp_path / "tiny.txt"))[0].catalogue.categories is None


def test_missing_attributes_are_an_error(log):
    with pytest.raises(DataError, match="cannot be read as JSON"):
        prepare(PrepareOptions("csv", log, categories=Path("nowhere.json")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, "unknown format 'xml'; known are s3rec"),
        ({"format": "csv"}, "needs an input path"),
        ({"format": "synthetic", "input": Path("x.csv")}, "synthetic makes its own log"),
        ({"format": "synthetic", "more_inputs": (Path("x.csv"),)}, "synthetic has a form of its own"),
        (
            {"format": "kuairand", "input": Path("x"), "shape": LogShape(in_order=True)},
            "kuairand has a form of its own",
        ),
        ({"input": Path("x"), "split": "by-time", "shape": LogShape(in_order=True)}, "without times cannot be cut"),
        ({"max_bad_share": 2.0}, "it is a share"),
        ({"format": "s3rec", "input": Path("x"), "split": "by-time"}, "no times"),
        ({"format": "kuairand", "input": Path("x"), "split": "leave-one-out"}, "its own split"),
        ({"format": "kuairand", "input": Path("x"), "k_core": 5}, "fixed catalogue"),
        ({"format": "kuairand", "input": Path("x"), "target": "is_hate"}, "unknown target 'is_hate'"),
        ({"synthetic": SMALL, "split": "random"}, "unknown split 'random'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        prepare(PrepareOptions(**options))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Beauty", (22_363, 12_101, 198_502)),
        ("Sports_and_Outdoors", (35_598, 18_357, 296_337)),
        ("Toys_and_Games", (19_412, 11_924, 167_597)),
        ("Yelp", (30_431, 20_033, 316_354)),
    ],
)
def test_papers_data_sets(shared_data, name, sizes):
    data, report = prepare(PrepareOptions("s3rec", shared_data / "s3rec" / f"{name}.txt"))
    assert (len(data.catalogue.users), len(data.catalogue.items), report.rows_kept) == sizes
    assert len(data.users_with_targets("test")) == sizes[0]


@pytest.mark.data
def test_kuairand_is_by_time(shared_data):
    data, report = prepare(PrepareOptions("kuairand", shared_data / "kuairand_pure"))
    assert (data.protocol, data.name, report.rows_bad) == ("by-time", "kuairand_pure", 0)
