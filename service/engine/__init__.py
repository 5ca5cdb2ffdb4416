"""Computes batches of requests: encoder, index and merge, here or in another process. Knows no HTTP, no experiments."""
