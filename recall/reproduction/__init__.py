"""The table of systems: runs, their rows in benchmarks/results/quality.json, and docs/results.md made of them."""
