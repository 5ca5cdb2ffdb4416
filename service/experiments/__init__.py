"""Assignment, exposure and feedback of A/B tests; the verdict has a room of its own. Knows arms by name only."""
