"""Lists beyond the plan: chosen among more hits by boosts, caps and diversity, and explained item by item.

Knows hits, rules and a snapshot of the items; no queues and no messages.
"""
