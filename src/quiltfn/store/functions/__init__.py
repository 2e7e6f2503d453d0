"""Functions, versions, aliases, URLs, policies, and runtimes in the database."""
