"""Assignment, exposure and feedback of A/B tests."""
