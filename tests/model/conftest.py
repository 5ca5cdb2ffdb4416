"""Tiny networks whose every weight matters, checkpoints around them, and one compute thread."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.catalogue import Catalogue, IdMap
from model.checkpoint import Checkpoint, Provenance
from model.networks import build_network
from model.networks.base import Network
from model.records import ServingPlan

NUM_ITEMS, NUM_USERS = 60, 5


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Computes as the service does: with one compute thread a row's answer is the same in any batch."""
    torch.set_num_threads(1)


def noisy_network(kind: str = "recgpt", seed: int = 0, **settings: Any) -> Network:
    """Fresh weights are so small that many parts hardly change the answer; here all of them do."""
    torch.manual_seed(seed)
    sizes = {"num_items": NUM_ITEMS, "num_users": NUM_USERS, "dim": 8, "max_length": 12}
    network = build_network(kind, {**sizes, **settings})
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.4 * torch.randn_like(weights))
    return network.eval()


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Network]:
    return noisy_network


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Checkpoint]:
    def make(network: Network | None = None, plan: ServingPlan | None = None) -> Checkpoint:
        network = network or noisy_network()
        N, num_users = network.config.num_items, network.config.num_users
        items, users = IdMap.of(range(100, 100 + N)), IdMap.of([f"u{row}" for row in range(num_users)])
        provenance = Provenance("d" * 64, "tiny", "none", 3, "0.0", training_seconds=1.5, metrics={"ndcg@10": 0.25})
        return Checkpoint(network, plan or ServingPlan(), Catalogue(items, users, np.arange(N)), provenance)

    return make


def ragged_histories(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [(rng.permutation(NUM_ITEMS)[:length] + 1).tolist() for length in lengths]


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Histories of the given lengths, none with a repeat, of users 0, 1, 2 .."""

    def make(*lengths: int, seed: int = 0) -> Batch:
        users = [i % (NUM_USERS + 1) for i in range(len(lengths))]
        return Batch.of(ragged_histories(lengths, seed), users, 12)

    return make


@pytest.fixture(scope="session")
def device() -> str:
    """The card where there is one; elsewhere kernels run in Triton's interpreter."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def draw(device: str) -> Callable[..., torch.Tensor]:
    """Normal numbers of a shape; whole ones tie."""
    draws = torch.Generator().manual_seed(0)

    def normal(*shape: int, whole: bool = False) -> torch.Tensor:
        numbers = torch.randint(-2, 3, shape, generator=draws).float() if whole else torch.randn(shape, generator=draws)
        return numbers.to(device)

    return normal
