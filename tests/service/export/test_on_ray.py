"""Parts made by Ray workers are those of one process; what they refuse is one sentence."""

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'recgpt-recall[ray]'")
pytest.importorskip("pandas", reason="Ray Data's pandas is not installed: pip install 'recgpt-recall[ray]'")

from service.engine.loading import load_arm
from service.export.export import ListExport
from service.export.histories import UserHistories
from service.export.on_ray import PartWorker, RaySpread, SpreadFailed
from service.export.parts import PartFolder

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("default"),
]  # Ray starts slowly, and warns of its own


@pytest.fixture(scope="module")
def wanted(tiny, bundles):
    return ListExport(load_arm("recgpt", bundles["recgpt"], "cpu"), UserHistories.of(tiny), 20, part_users=8)


def test_workers_make_the_same_file(wanted, bundles, tmp_path):
    files, told = {}, []
    for name, make in {"alone": None, "ray": RaySpread(wanted, bundles["recgpt"], "cpu", 2).tables}.items():
        output = tmp_path / f"{name}.parquet"
        with PartFolder.opened(output, wanted.facts("cpu")) as parts:
            wanted.run(parts, told.append, make)
        files[name] = output.read_bytes()
    assert files["ray"] == files["alone"]
    assert told[-1] == len(wanted.histories)


def test_a_worker_without_the_bundle_says_so(wanted, tmp_path):
    with pytest.raises(SpreadFailed, match=r"cannot make lists: arm exported: bundle .*nowhere is refused"):
        list(RaySpread(wanted, tmp_path / "nowhere", "cpu", 1).tables([0, 1], lambda _: None))


def test_each_worker_needs_a_card_of_its_own(wanted, bundles):
    with pytest.raises(SpreadFailed, match=r"needs a GPU of its own: Ray has .* for 1000"):
        list(RaySpread(wanted, bundles["recgpt"], "cuda", 1000).tables(range(1000), lambda _: None))


def test_a_worker_refuses_another_bundle(wanted, bundles):
    worker = PartWorker(bundles["comirec"], wanted.arm.release.bundle, "cpu", None, 20, 8)
    [refused] = worker({"item": wanted.histories.items[0][:1]})["refused"]
    assert "is another bundle to a worker" in refused


def test_nothing_to_make_starts_no_ray(wanted, tmp_path):
    assert list(RaySpread(wanted, tmp_path, "cpu", 2).tables([], lambda _: None)) == []
