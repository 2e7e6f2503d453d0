"""The shell around `model.pool`: it performs what the pure pool decides."""
