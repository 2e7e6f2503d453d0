"""The privileged process: creates, limits, kills, and removes sandboxes, and nothing else.

It uses the standard library alone; docs/reference/root-code.md lists every file of ours that runs
as root. A warm invocation does not pass through it.
"""
