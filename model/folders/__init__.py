"""Folders that are there whole or not at all: replaced in one step, bound by one digest.

Knows nothing of what is in them.
"""
