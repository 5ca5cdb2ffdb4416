"""Bundles of any size with fresh weights: the cost of a request depends on sizes, hardly on what was learnt."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from index.bundle.build import build_bundle
from model.catalogue import Catalogue, IdMap
from model.checkpoint import Checkpoint, Provenance
from model.networks import build_network
from model.records import Placement, PromptPlan, ServingPlan
from recall.bench.index import clustered

SPREAD = 0.3
TWO_STEPS = ServingPlan(PromptPlan(0, Placement.NONE, 2), (7, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of a RecGPT; the default is the small model of the targets (docs/decisions/0014-traced-passes.md)."""

    num_items: int = 12_101
    dim: int = 64
    num_layers: int = 2
    num_heads: int = 2
    max_length: int = 50
    plan: ServingPlan = TWO_STEPS
    seed: int = 0


def make_checkpoint(sizes: Sizes) -> Checkpoint:
    """Items 0 .. N-1, no users, weights drawn with the seed; items in clusters, as learnt ones are.

    The table weighs more than the fresh rest of the network, so that query vectors lie close to items: the recall of
    an approximate index then says something of trained tables, and lists differ between histories.
    """
    torch.manual_seed(sizes.seed)
    names = ("num_items", "dim", "num_layers", "num_heads", "max_length")
    network = build_network("recgpt", {name: getattr(sizes, name) for name in names})
    with torch.no_grad():
        network.item_vectors().copy_(SPREAD * torch.from_numpy(clustered(sizes.num_items, sizes.dim, sizes.seed)))
    counts = np.random.default_rng(sizes.seed).integers(1, 100, sizes.num_items)
    catalogue = Catalogue(IdMap.of(range(sizes.num_items)), IdMap.of([]), counts)
    return Checkpoint(network, sizes.plan, catalogue, Provenance("0" * 64, "random", "none", sizes.seed, "bench"))


def make_bundle(folder: Path, sizes: Sizes, spec: str = "exact") -> Path:
    """The bundle's folder; one that is there already is kept."""
    bundle = folder / "bundle"
    if not (bundle / "manifest.json").exists():
        make_checkpoint(sizes).save(folder / "checkpoint")
        build_bundle(folder / "checkpoint", bundle, spec)
    return bundle
