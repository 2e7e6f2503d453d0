"""Invocations, from request to record, and what follows from their ends."""
