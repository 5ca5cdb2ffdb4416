"""The command: one file a group of commands; prints, progress and sentences for people. Nothing imports it."""
