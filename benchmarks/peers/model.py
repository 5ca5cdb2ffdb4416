"""The same checkpoint as a team would serve it with a framework: eager torch, padded batches, scores, top-k, merge.

Every peer calls `Model.answer`; what differs between them is how requests reach it and how they are batched. The lists
are those of recgpt-recall (benchmarks/peers/compare.py checks it before it measures).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from index.bundle.bundle import open_bundle
from model.batch import Batch
from model.catalogue import ExternalId
from model.checkpoint import Checkpoint
from model.merging import merge

BUNDLE = "RECALL_PEER_BUNDLE"  # environment variable: peers start their workers in their own ways


class ListColumns(TypedDict):
    """Columns of a list, the best item first."""

    items: list[ExternalId]
    scores: list[float]


@dataclass(frozen=True)
class Model:
    checkpoint: Checkpoint

    @classmethod
    def open(cls, folder: Path | None = None) -> "Model":
        bundle = open_bundle(folder or Path(os.environ[BUNDLE]))
        checkpoint = Checkpoint.load(bundle.checkpoint_path)
        checkpoint.network.eval()
        return cls(checkpoint)

    @torch.inference_mode()
    def answer(self, histories: Sequence[Sequence[int]], top_n: int = 100) -> list[ListColumns]:
        """Histories of external ids; columns of each list."""
        network, plan, items = self.checkpoint.network, self.checkpoint.plan, self.checkpoint.catalogue.items
        rows = [items.rows(history) for history in histories]
        windows = [list(r[-network.config.max_length :]) for r in rows]
        vectors = network.queries(Batch.of(windows, [0] * len(rows), network.config.max_length), plan.prompts).vectors
        scores = vectors @ network.item_vectors().T  # (B, Q, N)
        for user, seen in enumerate(rows):
            scores[user, :, torch.tensor(seen, dtype=torch.int64) - 1] = -torch.inf
        best, places = scores.topk(top_n)
        lists = merge(np.asarray(places) + 1, np.asarray(best), top_n, plan, self.checkpoint.catalogue.categories)
        merged = [lists.of(user) for user in range(len(rows))]
        return [{"items": items.external(m.rows.tolist()), "scores": m.scores.tolist()} for m in merged]
