"""Several machines: nodes that share one PostgreSQL and send calls to each other.

Only a server that is a node of a fleet imports this package.
"""
