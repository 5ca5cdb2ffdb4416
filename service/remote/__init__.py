"""Remote: engines in another process over ZeroMQ: several HTTP processes ask one that computes. Knows no HTTP."""
