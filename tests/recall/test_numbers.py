"""Numbers that no list, training or port can have are refused in a sentence that names the option."""

import pytest

FOLDERS = ("--data", "nowhere", "--output", "nowhere")
REFUSED = [
    ("compare", "--checkpoint", "nowhere", "--data", "nowhere", "--cutoff", 0),
    ("compare", "--checkpoint", "nowhere", "--data", "nowhere", "--cutoff", -5),
    ("train", "recgpt", *FOLDERS, "--max-epochs", 0),
    ("prepare", "--format", "csv", "--input", "nowhere", "--output", "nowhere", "--k-core", -1),
    ("demo", "--port", 70_000),
]


@pytest.mark.parametrize("words", REFUSED, ids=[" ".join(map(str, words[-2:])) for words in REFUSED])
def test_a_number_out_of_bounds_is_named(run_recall, words):
    ended = run_recall(*words)
    assert ended.status == 2
    assert words[-2] in ended.err
    assert "Input should be" in ended.err
    assert "Traceback" not in ended.err
