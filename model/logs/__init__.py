"""Logs of any known shape in, one EventLog and the account of its reading out: files, columns, times, ids.

Knows nothing of splits and sequences (model/data).
"""
