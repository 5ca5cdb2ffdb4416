"""Recipe files as mappings: parts, common settings, one file like another."""

import pytest

from model.recipes.files import RecipeName, join, load_recipe, read_sections

TWO_PARTS = """
best:
  common: {network: {dim: 8, dropout: 0.1}, batch_users: 3, plan: {cutoff: 5}}
  a: {network: {dim: 16}, stages: [{num_epochs: 1}]}
  b: {batch_users: 4, stages: [{num_epochs: 2}], plan: {diversity: 0.5}}
paper:
  a: {stages: [{num_epochs: 9}]}
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="mine"):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / f"{name}.yaml")

    return write_file


def test_common_settings_are_joined_key_by_key(write):
    sections = read_sections(RecipeName(write(TWO_PARTS)))
    assert sections["a"]["network"] == {"dim": 16, "dropout": 0.1}
    assert sections["b"]["network"] == {"dim": 8, "dropout": 0.1}
    assert [sections[arm]["batch_users"] for arm in "ab"] == [3, 4]
    assert sections["b"]["plan"] == {"cutoff": 5, "diversity": 0.5}


def test_common_is_no_section(write):
    assert list(read_sections(RecipeName(write(TWO_PARTS)))) == ["a", "b"]


def test_stages_are_replaced_whole():
    assert join({"stages": [1, 2]}, {"stages": [3]}) == {"stages": [3]}


def test_a_part_is_named_behind_a_colon(write):
    path = write(TWO_PARTS)
    assert load_recipe(f"{path}:paper", "a").stages[0].num_epochs == 9
    assert load_recipe(f"{path}:best", "a") == load_recipe(path, "a")


def test_a_recipe_bears_its_part_unless_it_is_best(write):
    path = write(TWO_PARTS)
    assert [load_recipe(name, "a").name for name in (path, f"{path}:paper")] == ["mine", "mine:paper"]


def test_a_file_without_parts_is_best(write):
    path = write("common: {batch_users: 7}\na: {stages: [{num_epochs: 1}]}")
    assert load_recipe(path, "a").batch_users == 7
    with pytest.raises(ValueError, match=r"has no part 'paper'; it has best"):
        load_recipe(f"{path}:paper", "a")


def test_one_file_is_like_another(write):
    base = write(TWO_PARTS, "base")
    path = write(f"best:\n  like: {base}\n  common: {{batch_users: 9}}\n  b: {{network: {{dim: 2}}}}")
    sections = read_sections(RecipeName(path))
    assert sections["a"] == {
        "network": {"dim": 16, "dropout": 0.1},
        "batch_users": 9,
        "plan": {"cutoff": 5},
        "stages": [{"num_epochs": 1}],
    }
    assert (sections["b"]["network"], sections["b"]["batch_users"]) == ({"dim": 2, "dropout": 0.1}, 4)


def test_a_file_that_is_like_itself_is_refused(write):
    path = write("best: {}")
    write(f"best: {{like: {path}}}")
    with pytest.raises(ValueError, match="is like itself"):
        read_sections(RecipeName(path))


def test_a_file_that_mixes_parts_and_sections_is_refused(write):
    path = write("best: {a: {stages: []}}\nrecgpt: {stages: []}")
    with pytest.raises(ValueError, match="mixes best with sections"):
        read_sections(RecipeName(path))


def test_an_unknown_part_is_no_part():
    with pytest.raises(ValueError, match="no recipe 'beauty:other'"):
        load_recipe("beauty:other", "recgpt")


def test_an_unknown_key_in_common_is_refused(write):
    path = write("common: {epochs: 3}\na: {stages: [{num_epochs: 1}]}")
    with pytest.raises(ValueError, match="a recipe has no epochs in Recipe"):
        load_recipe(path, "a")
