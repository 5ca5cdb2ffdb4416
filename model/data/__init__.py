"""Logs of known formats in, item sequences of users out: readers, splits, and a synthetic short-video generator.

Knows nothing of networks.
"""
