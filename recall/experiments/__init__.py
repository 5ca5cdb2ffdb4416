"""recall experiment and recall events: an A/B test planned and judged, and the log of events that it is judged by."""
