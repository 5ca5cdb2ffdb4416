"""The key/value cache: what attention has read of growing sequences, so that one more item costs one token."""

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of all layers for B growing sequences, and what tokens sum up, in buffers of fixed capacity."""

    def __init__(self, shape: tuple[int, int, int, int], num_layers: int, like: Tensor, sum_width: int = 0) -> None:
        """shape: (B, H, capacity, head width). sum_width: D of the sums that tokens pass on; 0 = they pass none."""
        self.keys = [like.new_zeros(shape) for _ in range(num_layers)]
        self.values = [like.new_zeros(shape) for _ in range(num_layers)]
        self.sums = like.new_zeros(shape[0], shape[2], sum_width)
        self.lengths = torch.zeros(shape[0], dtype=torch.int64, device=like.device)  # filled slots of each sequence
        # the mask needs the widest length; a number on the host avoids waiting for the device
        self.width = 0  # slots in use by the longest sequence; known on the host, so no copy from the device
        self.even = True  # all sequences are equally long: what is added to them stands side by side

    def reserve(self, num_new: int) -> None:
        """Makes room for T more tokens of every sequence; comes before their keys and values are written."""
        self.width += num_new

    def advance(self, num_new: int) -> None:
        """Counts T tokens that were written to every sequence."""
        self.lengths = self.lengths + num_new

    def cut_to(self, lengths: Tensor) -> None:
        """Forgets what stands behind the first `lengths` (B,) tokens of each sequence; the next token overwrites it."""
        self.lengths, self.even = lengths, False

    def is_first(self, num_new: int) -> bool:
        """Tells the first tokens of all: they stand side by side, from slot 0."""
        return self.width == num_new

    def slots(self, num_new: int) -> Tensor:
        """(B, T) where the next T tokens of each sequence go."""
        return self.lengths.unsqueeze(1) + torch.arange(num_new, device=self.lengths.device)

    def write_sums(self, slots: Tensor, sums: Tensor) -> None:
        """Stores (B, T, D) at `slots` (B, T)."""
        self.sums.scatter_(1, slots.unsqueeze(2).expand_as(sums), sums)

    def last_sums(self) -> Tensor:
        """(B, D) of the token before the next one; there has to be one."""
        last = (self.lengths - 1).view(-1, 1, 1).expand(-1, 1, self.sums.shape[2])
        return self.sums.gather(1, last).squeeze(1)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (B, H, T, W) keys and values at `slots` (B, T); returns all that is stored up to `width`."""
        if self.even:
            start = self.width - keys.shape[2]
            self.keys[layer].narrow(2, start, keys.shape[2]).copy_(keys)
            self.values[layer].narrow(2, start, keys.shape[2]).copy_(values)
        else:
            index = slots.unsqueeze(1).unsqueeze(3).expand_as(keys)
            self.keys[layer].scatter_(2, index, keys)
            self.values[layer].scatter_(2, index, values)
        # a traced pass of one history spends a tenth of its time in views: one here, where slices would be three
        return self.keys[layer].narrow(2, 0, self.width), self.values[layer].narrow(2, 0, self.width)
