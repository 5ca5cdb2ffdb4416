"""Vectors to neighbours: indexes and the atomic bundle."""
