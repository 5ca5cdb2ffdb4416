"""What outlives a request: cached vectors and histories, in Redis or in memory. Knows no HTTP and no models."""
