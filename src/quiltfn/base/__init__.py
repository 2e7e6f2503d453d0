"""What every layer may use: time, ids, retries, and small types."""
