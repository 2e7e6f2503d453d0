"""Commands that work on the machine or the data directory, not over HTTP."""
