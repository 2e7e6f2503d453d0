"""The server's side of sandboxes: the launcher makes them, and the guest inside runs calls."""
