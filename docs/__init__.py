"""Pages, and the scripts that write the generated ones and measure the code. Not installed."""
