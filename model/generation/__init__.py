"""Items that a network generates itself: Algorithm 1, tokens, key/value cache. Knows networks by protocol only."""
