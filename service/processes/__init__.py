"""Processes: one that supervises, one that computes, several that speak HTTP. Knows no requests."""
