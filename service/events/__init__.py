"""Events on their way: to Redis streams, to a spool on disk meanwhile, and read back. Knows no kind of event."""
