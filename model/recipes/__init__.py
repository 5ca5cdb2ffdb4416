"""Recipes of training: files, sections and the digest that says which trainings are the same. Trains nothing."""
