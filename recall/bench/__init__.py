"""`recall bench`: an open-loop generator in a process of its own, and what is measured with it."""
