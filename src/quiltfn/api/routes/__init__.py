"""The routes, one module per group: its handlers, and their requests and responses."""
