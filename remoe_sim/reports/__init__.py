"""One HTML page about a trace or a sweep."""
