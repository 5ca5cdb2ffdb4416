"""Searches over the item table that need not write all scores, on CUDA by Triton. Knows tensors only."""
