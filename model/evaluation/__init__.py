"""Ranking metrics and the protocol by which a split is measured; lists come from a network, figures go out.

Knows nothing of training.
"""
