"""Scripts that measure what no command does; their figures are kept in results/. Not installed."""
