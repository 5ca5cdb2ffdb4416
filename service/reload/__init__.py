"""Reload: another bundle takes an arm's place while it serves, proven before, in every process. Knows no HTTP."""
