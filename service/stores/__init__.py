"""Everything that outlives a request: cached vectors and histories, in Redis or in memory. Knows no HTTP, no models."""
