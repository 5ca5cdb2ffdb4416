"""Sequences of real and generated items as a causal network reads them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """B sequences, padded on the right. A generated token bears the position of the real item it stands before."""

    rows: Tensor  # (B, T) item rows, or START
    segments: Tensor  # (B, T) 0 = real, s = generated in step s
    positions: Tensor  # (B, T)
    vectors: Tensor | None = None  # (B, T, D) of soft items, in place of those of the rows

    @classmethod
    def plain(cls, rows: Tensor, start_row: int) -> "Tokens":
        """START, v_1 .. v_L with positions 0 .. L; rows is (B, L)."""
        B, L = rows.shape
        rows = torch.cat([rows.new_full((B, 1), start_row), rows], 1)
        return cls(rows, torch.zeros_like(rows), torch.arange(L + 1, device=rows.device).expand(B, -1))

    def cut(self, start: int, stop: int) -> "Tokens":
        return Tokens(self.rows[:, start:stop], self.segments[:, start:stop], self.positions[:, start:stop])

    def interleave(self, prompts: Tensor) -> "Tokens":
        """Puts prompts (B, L - 1, K) before each real item but the first; for plain tokens START, v_1 .. v_L."""
        B, gaps, K = prompts.shape
        after = slice(2, None)  # v_2 .. v_L
        rows = torch.cat([prompts, self.rows[:, after, None]], 2)
        segments = torch.cat([torch.ones_like(prompts), torch.zeros_like(rows[:, :, :1])], 2)
        positions = self.positions[:, after, None].expand(B, gaps, K + 1)
        # START and v_1: no item is generated before the first real one
        head = self.cut(0, 2)
        return Tokens(
            torch.cat([head.rows, rows.flatten(1)], 1),
            torch.cat([head.segments, segments.flatten(1)], 1),
            torch.cat([head.positions, positions.flatten(1)], 1),
        )
