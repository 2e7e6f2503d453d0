"""The door: commands that work on this machine go to `operator`, all others to the HTTP client.

The imports stand inside on purpose: `serve` becomes the privileged launcher and must not carry a
terminal library with it, and a client command must not load the server.
"""

import sys


def main() -> None:
    """The `quiltfn` command."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word == "serve":
        from quiltfn.operator import serve  # noqa: PLC0415

        sys.exit(serve.main(sys.argv[2:]))
    if word == "doctor":
        from quiltfn.operator import doctor  # noqa: PLC0415

        sys.exit(doctor.main(sys.argv[2:]))
    if word == "keys":
        from quiltfn.operator import keys  # noqa: PLC0415

        sys.exit(keys.main(sys.argv[2:]))
    if word == "simulate":
        from quiltfn.operator import simulate  # noqa: PLC0415

        sys.exit(simulate.main(sys.argv[2:]))
    from quiltfn import cli  # noqa: PLC0415

    cli.main()


if __name__ == "__main__":
    main()
