"""The users of a replay: what they did before, what they may be shown, and how they react to it."""
