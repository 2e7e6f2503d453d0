"""Keys, quotas, the audit log, operations and idempotent requests in the database."""
