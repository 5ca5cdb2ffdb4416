"""Ranking metrics and the protocol."""
