"""The privileged process: makes, kills and sweeps sandboxes, and nothing else.

It uses the standard library alone; docs/architecture.md lists every file of ours that runs as root.
A warm call does not pass through it.
"""
