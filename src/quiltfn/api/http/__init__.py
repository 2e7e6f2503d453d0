"""The API's use of HTTP, from a connection to a route and back."""
