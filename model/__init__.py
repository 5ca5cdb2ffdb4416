"""Offline and pure torch: data, networks, training, evaluation. Knows nothing of HTTP, Redis or FAISS."""

__version__ = "0.1.0"
