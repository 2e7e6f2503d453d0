"""Functions, versions, aliases, runtimes, URLs, and policies: the use cases, and caches of them."""
