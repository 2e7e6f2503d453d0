"""Invocations, from a request to its record, and what their ends cause."""
