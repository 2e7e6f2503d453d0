"""Records of invocations, the queue of asynchronous ones, and what their ends cause."""
