"""Metrics, log lines and live quality. Reads what others count and changes no answer."""
