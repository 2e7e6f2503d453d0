"""Who may do what, and how much: keys, tokens, quotas, admission."""
