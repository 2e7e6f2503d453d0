"""One server: its parts and how they are put together, started, and ended."""
