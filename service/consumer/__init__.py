"""Events from Redis streams to Parquet files, each exactly once, by a process beside the service. Knows no HTTP."""
