"""Admission: which requests are taken, before their bodies are read, so that nobody waits for long. Knows no HTTP."""
