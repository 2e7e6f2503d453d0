"""The server's side of sandboxes: requests to the launcher, and the protocol with guests."""
