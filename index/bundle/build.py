"""From a checkpoint to a bundle: item vectors, index, golden queries, manifest.

The only module here that knows the model.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.auto import DEFAULT_REQUIREMENTS, IndexRequirements, choose_index
from index.base import ItemIndex
from index.bundle.bundle import BundleContents, GoldenQueries, Manifest, write_bundle
from index.bundle.files import check_target
from index.bundle.signature import SigningKey
from index.factory import build_index
from index.next_item import next_item_from
from model import __version__
from model.catalogue import ExternalId
from model.checkpoint import Checkpoint
from model.encoder import UserEncoder, pin_compute_threads
from model.metadata import CONFIG
from model.records import History, QueryVectors

NUM_GOLDEN = 32
MAX_RECORDED = 128  # golden queries of live requests; each is encoded at every start
AUTO = "auto"


def build_bundle(
    checkpoint_folder: Path,
    target: Path,
    spec: str = "exact",
    requirements: IndexRequirements = DEFAULT_REQUIREMENTS,
    say: Callable[[str], None] = lambda _: None,
    signing: SigningKey | None = None,
    recorded: Sequence[Sequence[ExternalId]] = (),
) -> Manifest:
    """Writes a bundle of a checkpoint, atomically. spec: "exact", "auto" or a FAISS factory string.

    requirements: the recall and memory that "auto" chooses by; `say` is told of each trial and of the reason.
    signing: signs the bundle. recorded: histories of live requests, golden queries beside the drawn ones.

    Raises CheckpointError, BundleRefused or ValueError with the reason; what stood at `target` stays then.
    """
    check_target(target)
    pin_compute_threads()
    checkpoint = Checkpoint.load(checkpoint_folder)
    encoder = UserEncoder(checkpoint)
    vectors = encoder.item_vectors().numpy()
    histories = [*golden_histories(checkpoint), *known_histories(checkpoint, recorded, say)]
    queries = encoder.encode(histories)
    index = _choose(vectors, queries, requirements, say) if spec == AUTO else build_index(vectors, spec)
    if (next_item := next_item_from(index)) is not None:
        # generated as the service will do it
        queries = UserEncoder(checkpoint, next_item=next_item).encode(histories)
    if len(checkpoint.plan.outcomes) > 1 and queries.vectors.shape[1] > 1:
        raise ValueError(
            f"its plan mixes outcomes, and {checkpoint.network.kind} answers with {queries.vectors.shape[1]} vectors a "
            "user; ask for one outcome"
        )
    contents = BundleContents(
        arm_kind=checkpoint.network.kind,
        checkpoint=checkpoint_folder,
        vectors=vectors,
        index=index,
        golden=GoldenQueries.of(histories, queries, vectors),
        data_digest=checkpoint.provenance.data_digest,
        config_digest=hashlib.sha256((checkpoint_folder / CONFIG).read_bytes()).hexdigest(),
        code_version=__version__,
        metrics=checkpoint.provenance.metrics,
    )
    return write_bundle(target, contents, signing)


def _choose(
    vectors: NDArray[np.float32], queries: QueryVectors, requirements: IndexRequirements, say: Callable[[str], None]
) -> ItemIndex:
    """Chooses by the query vectors of the golden histories, which are such as the service will ask."""
    choice = choose_index(vectors, queries.vectors.reshape(-1, vectors.shape[1]), requirements, say)
    say(choice.reason)
    return choice.index


def golden_histories(checkpoint: Checkpoint) -> list[History]:
    """Random histories drawn by popularity, of every length from empty to twice the window, known and unknown users."""
    rng = np.random.default_rng(0)
    config = checkpoint.network.config
    # an item that nobody watched may be drawn too
    weights = checkpoint.catalogue.counts + 1.0
    # empty, short, exactly full and too long: every padded length is replayed at load
    lengths = np.linspace(0, 2 * config.max_length, NUM_GOLDEN).astype(int)
    rows = [rng.choice(len(weights), size, p=weights / weights.sum()) + 1 for size in lengths]
    users = rng.integers(0, config.num_users + 1, NUM_GOLDEN)
    return [History(tuple(row.tolist()), int(user)) for row, user in zip(rows, users, strict=True)]


def known_histories(
    checkpoint: Checkpoint, recorded: Sequence[Sequence[ExternalId]], say: Callable[[str], None]
) -> list[History]:
    """The newest of the recorded histories, with the items that the catalogue knows, of nobody.

    Raises ValueError where histories are given and it knows no item of any.
    """
    rows = [known for history in recorded if (known := checkpoint.catalogue.items.rows(history))]
    if recorded and not rows:
        raise ValueError(f"the catalogue knows no item of the {len(recorded)} recorded histories")
    newest = rows[-MAX_RECORDED:]
    if recorded:
        say(f"{len(newest)} of {len(recorded)} recorded histories are golden queries")
    return [History(own[-2 * checkpoint.network.config.max_length :]) for own in newest]
