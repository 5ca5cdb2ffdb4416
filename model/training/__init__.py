"""Losses, the trainer and the recipes."""
