"""recall tune: trials into a journal, the best section as YAML that `recall train` takes."""

import pytest
import yaml

RECIPE = """
gru4rec:
  network: {dim: 48, max_length: 6}
  stages: [{num_epochs: 1}]
popularity: {network: {dim: 1}, stages: []}
"""


@pytest.fixture(scope="module")
def places(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    tiny.save(folder / "data")
    (folder / "mine.yaml").write_text(RECIPE)
    return ("--data", folder / "data", "--journal", folder / "journal.jsonl", "--recipe", folder / "mine.yaml")


def test_the_best_is_a_section_of_a_recipe(run_recall, places, tmp_path):
    pytest.importorskip("optuna", reason="the extra `tune` is not installed")
    ended = run_recall("tune", "--system", "gru4rec", *places, "--trials", 1, "--device", "cpu")
    assert ended.status == 0, ended.err
    told = [line for line in ended.err.splitlines() if "trial" in line.lower() and "ndcg@10" in line]
    assert len(told) == 1
    assert told[0].startswith("trial 0: complete, ndcg@10")
    assert "Trial 0 finished" not in ended.err
    section = "\n".join(ended.out.splitlines()[:-1])
    assert yaml.safe_load(section)["gru4rec"]["network"]["dim"] == 48
    (tmp_path / "best.yaml").write_text(section)
    trained = run_recall(
        "train", "gru4rec", *places[:2], "--output", tmp_path / "c", "--recipe", tmp_path / "best.yaml"
    )
    assert trained.status == 0, trained.err


@pytest.mark.parametrize(
    ("system", "reason"), [("popularity", "there is nothing to tune"), ("sasrec", "has no arm 'sasrec'")]
)
def test_mistake_is_one_sentence(run_recall, places, system, reason):
    ended = run_recall("tune", "--system", system, *places)
    assert ended.status == 2
    assert reason in ended.sentence
