"""From a connection to a route and back: HTTP as the API speaks it."""
