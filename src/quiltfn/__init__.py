"""quiltfn: self-hosted serverless functions for Linux, sandboxed by default.

`from quiltfn import Client` is the client library; see docs/reference/python-client.md.
"""

# Not from `typing`, which takes its time to load: every process of a server imports this file, and
# so does every command before it can tell what Ctrl-C means.
TYPE_CHECKING = False

__all__ = ["AsyncClient", "Client", "__version__"]
__version__ = "0.2.0"

if TYPE_CHECKING:
    from quiltfn.sdk import AsyncClient, Client
else:

    def __getattr__(name: str) -> object:
        """The clients are loaded when they are asked for."""
        if name not in ("AsyncClient", "Client"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from quiltfn import sdk  # noqa: PLC0415

        return getattr(sdk, name)
