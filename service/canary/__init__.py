"""Judges a canary by the answers of this process, and has it rolled back when it leaves its bounds. Knows no HTTP."""
