"""Readers of known formats, sequences, splits, the synthetic short-video generator."""
