"""The bundle: weights, vectors, index and golden queries under one manifest, proven before it serves."""
