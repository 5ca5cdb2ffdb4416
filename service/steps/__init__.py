"""Steps that not every request takes: kept histories, two lists made one, lists without what was shown before."""
