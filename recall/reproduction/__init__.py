"""The table of systems: runs, their rows in benchmarks/results/quality.jsonl, and docs/results.md made of them."""
