"""Scheduling: threads that are watched, a queue in lanes, the pace of batches. Knows neither requests nor models."""
