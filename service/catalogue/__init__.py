"""The items that may be listed now: those of a bundle, those that came since, and those that are gone.

Changes in (from a Redis stream, or of this process), snapshots out; knows no engine, no index and no HTTP.
"""
