"""Assignment, exposure and feedback of A/B tests. Knows arms by name only."""
