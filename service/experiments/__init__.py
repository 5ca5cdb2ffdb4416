"""Assignment, exposure, feedback and verdict of A/B tests. Knows arms by name only."""
