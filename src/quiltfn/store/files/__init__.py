"""The data directory: its files, their copies, and the disk they are on."""
