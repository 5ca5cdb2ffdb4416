"""The report of an experiment: from its event log to a record, and from that to a page. Judges nothing itself."""
