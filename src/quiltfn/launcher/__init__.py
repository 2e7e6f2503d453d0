"""The privileged process: makes, kills and sweeps sandboxes, and nothing else.

It uses the standard library alone, so that what runs as root can be read in one sitting. A warm
call does not pass through it.
"""
