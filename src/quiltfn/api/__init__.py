"""HTTP: connections, requests, routes, and responses. It decides nothing about functions."""
