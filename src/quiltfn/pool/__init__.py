"""Performs what the pure pool (`model.pool`) decides."""
