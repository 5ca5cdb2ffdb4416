"""Vectors in, neighbours out: exact and approximate indexes, how one is chosen and measured, and the atomic bundle.

Knows nothing of HTTP or Redis; of the model its records and kernels, and `bundle.build` alone knows networks.
"""
