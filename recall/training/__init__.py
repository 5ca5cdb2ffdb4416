"""recall train, build and evaluate: from a prepared data set to a checkpoint, a bundle, and its measured quality."""
