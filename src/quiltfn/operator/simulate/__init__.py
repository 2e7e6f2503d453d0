"""`quiltfn simulate`: what keep-alive policies would have cost on a trace of calls."""
