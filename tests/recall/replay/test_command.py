"""recall experiment replay: what it refuses, and the worlds and tables that it keeps."""

import numpy as np
import polars as pl
import pytest

from docs import online_ab
from recall.replay.command import met_pairs
from recall.replay.study import KeptWorld, digest_of


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["netflix"], "no audience is called 'netflix'; there are kuairec and kuairand"),
        (["kuairec"], "is not a file; the replay reads kuairec_fully_observed.npz"),
        (["kuairec", "--arm", "sasrec=x"], "--arm sasrec: the arms of a replay are comirec and recgpt"),
        (["kuairec", "--dropped", "0,few"], "--dropped is '0,few'; it takes whole numbers with commas between them"),
        (["kuairand"], "user_sequences.parquet cannot be read with the columns user_id"),
    ],
)
def test_refusals_are_one_sentence(run_recall, tmp_path, options, sentence):
    ended = run_recall("experiment", "replay", *options, "--data", tmp_path, "--work", tmp_path / "work")
    assert ended.status == 2
    assert sentence in ended.sentence


def test_a_world_is_kept_under_what_it_depends_on(tmp_path):
    frame, facts = pl.DataFrame({"user": [3, 1], "plays": [1.0, 0.0]}), {"seed": 0, "arm": "recgpt"}
    kept = KeptWorld(tmp_path, facts)
    assert kept.read() is None
    kept.write(frame)
    assert kept.read().equals(frame)
    assert KeptWorld(tmp_path, facts | {"seed": 1}).read() is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]


def test_a_digest_is_of_reactions():
    frame = pl.DataFrame({"user": [3, 1], "plays": [1.0, 0.0], "disturbed": [0.0, 0.0]})
    assert digest_of([frame]) == digest_of([frame.with_columns(disturbed=pl.Series([1.0, 0.0]))])
    assert digest_of([frame]) == digest_of([frame.with_columns(pl.col("plays") + 1e-9)])
    assert digest_of([frame]) != digest_of([frame.with_columns(pl.col("plays") + 1)])
    assert digest_of([frame]) != digest_of([frame.reverse()])


def test_tables_of_the_page_are_written_between_their_marks(monkeypatch, tmp_path):
    page, rows = tmp_path / "page.md", tmp_path / "rows.jsonl"
    page.write_text(
        "before\n<!-- calibration kuairand -->\nold\n<!-- / -->\n<!-- twins kuairec -->\nkept\n<!-- / -->\n"
    )
    rows.write_text('{"audience": "kuairand", "calibration": {"plays": [[0.1, 0.2], [0.3, 0.4]]}}\n')
    monkeypatch.setattr(online_ab, "PAGE", page)
    monkeypatch.setattr(online_ab, "ROWS", rows)
    text = online_ab.page()
    assert "| plays | 0.1000 / 0.2000 | 0.3000 / 0.4000 |\n<!-- / -->" in text
    assert "old" not in text
    assert "<!-- twins kuairec -->\nkept\n<!-- / -->" in text


def test_pairs_of_the_log_that_an_arm_showed():
    frame = pl.DataFrame({"real": [3.0, 1.0], "real_plays": [1.0, 1.0], "real_modelled": [0.9, 0.3]})
    met = met_pairs({"comirec": frame, "recgpt": frame.head(0), "other": frame.select("real")})
    assert met == {"comirec": {"pairs": 4, "modelled": pytest.approx(0.3), "observed": 0.5}}


def test_twins_of_other_users_are_refused():
    from recall.replay.lifts import twin_lifts

    first, second = (pl.DataFrame({"user": users, "plays": np.ones(2)}) for users in ([1, 2], [2, 1]))
    with pytest.raises(ValueError, match="twins are the same users"):
        twin_lifts(first, second, ["plays"])
