"""The verdict of an A/B test from sums that add up: sample ratio, lifts, guard rails, power. Knows no streams."""
