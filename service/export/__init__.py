"""Lists for all users of a data set: the lists that the service would answer with, in one Parquet file.

Knows bundles and data sets; no HTTP, no Redis. Comes back after a kill to where it was.
"""
