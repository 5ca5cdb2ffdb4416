"""Attributes of items and the conditions that requests put on them: author, categories, duration, time of upload.

Rows in, booleans out; knows nothing of vectors, indexes or HTTP.
"""
