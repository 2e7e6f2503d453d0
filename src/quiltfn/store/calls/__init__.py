"""Records of invocations, the queue of asynchronous ones, and the consequences of their ends."""
