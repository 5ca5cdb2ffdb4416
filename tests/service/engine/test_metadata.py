"""A bundle's ids and plan for a process without weights: read whole, and refused where it is not the very bundle."""

import json
import shutil
import time

import pytest

from service.engine.metadata import find_bundle, load_arm_metadata, plan_digest, wait_for_bundles
from service.errors import ConfigurationError


@pytest.fixture
def bundle(bundles, tmp_path):
    return shutil.copytree(bundles["recgpt"], tmp_path / "recgpt")


def load(folder, digest=None):
    return load_arm_metadata("recgpt", folder, digest or find_bundle(folder)[1], engine=None)


def test_ids_and_plan_are_those_of_the_bundle(bundle, tiny):
    release = load(bundle)
    assert release.catalogue.items.ids.tolist() == tiny.catalogue.items.ids.tolist()
    assert (release.kind, release.window, release.plan.quotas) == ("recgpt", 20, (7, 3))
    assert release.dim == 16
    assert release.items.snapshot.num_main == 300


def test_a_link_to_a_bundle_is_the_folder_that_it_lies_in(bundle, tmp_path):
    (tmp_path / "current").symlink_to(bundle)
    assert find_bundle(tmp_path / "current") == find_bundle(bundle)
    assert find_bundle(bundle)[0] == bundle.resolve()


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_folder_without_a_bundle_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=name):
        find_bundle(tmp_path / name)


def test_another_bundle_in_the_folder_is_refused(bundle):
    with pytest.raises(ConfigurationError, match="no longer holds the bundle 0123456789abcdef, it was replaced"):
        load(bundle, "0123456789abcdef")


@pytest.mark.parametrize("name", ["catalogue.npz", "items.parquet", "config.json"])
def test_ids_that_are_not_the_bundles_are_refused(bundle, name):
    [path] = bundle.rglob(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=f"{name} does not match its sha256"):
        load(bundle)


def test_a_manifest_that_is_no_manifest_is_refused(bundle):
    digest = find_bundle(bundle)[1]
    (bundle / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(ConfigurationError, match="arm recgpt: "):
        load(bundle, digest)


def test_plans_have_one_digest_each(bundle, bundles):
    other = load_arm_metadata("comirec", bundles["comirec"], find_bundle(bundles["comirec"])[1], engine=None)
    assert load(bundle).plan_digest == plan_digest(load(bundle).plan)
    assert load(bundle).plan_digest != other.plan_digest


def test_bundles_that_are_there_are_not_waited_for(bundle, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    wait_for_bundles([bundle], 60)


def test_what_does_not_come_is_waited_for_as_long_as_told_and_no_longer(bundle, tmp_path, monkeypatch):
    now = 0.0

    def sleep(pause_s):
        nonlocal now
        now += pause_s
        assert now < 10, "it waits on"

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    # one that is there does not end the waiting for the other
    wait_for_bundles([bundle, tmp_path / "never"], 3)
    assert 3 <= now < 4
