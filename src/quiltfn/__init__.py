"""quiltfn: self-hosted serverless functions for Linux, sandboxed by default.

`from quiltfn import Client` is the client library; see docs/reference/python-client.md.
"""

# Not from `typing`, which takes long to load: every process of a server imports this file, and so
# does every command before it can handle Ctrl-C.
TYPE_CHECKING = False

__all__ = ["AsyncClient", "Client", "__version__"]
__version__ = "0.2.0"

if TYPE_CHECKING:
    from quiltfn.sdk import AsyncClient, Client
else:

    def __getattr__(name: str) -> object:
        """Loads a client when it is first used."""
        if name not in ("AsyncClient", "Client"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from quiltfn import sdk  # noqa: PLC0415

        return getattr(sdk, name)
