"""A recipe and sequences in, a checkpoint out: losses, stages, trainer, choice of a plan, search for settings.

Reads nothing of the test split.
"""
