"""Time, ids, retries, and small types that every layer may use."""
