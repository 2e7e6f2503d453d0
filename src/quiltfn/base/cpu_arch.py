"""What a processor is called: by the kernel (`uname -m`), and by images."""

# Images have the names that Go gives. A processor that is not here has the same name for both.
_IN_IMAGES = {"x86_64": "amd64", "aarch64": "arm64"}


def name_in_images(machine: str) -> str:
    """The name that images have for the processor that the kernel calls `machine`."""
    return _IN_IMAGES.get(machine, machine)
