"""recall experiment replay: an online A/B test with users whose preferences are known, through a real service."""
