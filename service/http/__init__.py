"""HTTP in front of the pipeline: bytes in, checked records, bytes out. Knows no models, indexes or Redis keys."""
