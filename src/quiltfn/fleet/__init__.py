"""Several nodes over one PostgreSQL: membership, placement, and forwarding.

Only a server that is a node of a fleet imports this package.
"""
