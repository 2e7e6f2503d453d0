"""Sandboxes from the server's side: the launcher makes them, the guest inside answers calls."""
