"""Keys, quotas, the audit log, and what callers may repeat, in the database."""
