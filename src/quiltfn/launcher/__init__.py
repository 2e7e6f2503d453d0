"""The privileged process: makes, kills and sweeps sandboxes, and nothing else.

Standard library only, so that what runs as root can be read in one sitting. It is not on the way
of a warm call.
"""
