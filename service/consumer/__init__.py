"""Brings events from Redis streams into Parquet files, each event into one, by a process beside the service."""
