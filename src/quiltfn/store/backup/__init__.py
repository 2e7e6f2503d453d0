"""Copies of a whole store: to another database, into an archive, and back."""
