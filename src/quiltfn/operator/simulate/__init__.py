"""`quiltfn simulate`: the cost of keep-alive policies on a trace of invocations."""
