"""One module per revision, oldest first. What a released revision does never changes."""
