"""Use cases of functions, versions, aliases, runtimes, URLs, and policies, with their caches."""
