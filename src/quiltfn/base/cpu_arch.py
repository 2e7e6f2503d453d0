"""Maps the kernel's names of CPU architectures (`uname -m`) to those in images."""

# Images use Go's names. Architectures that are not listed have the same name for the kernel and Go.
_IN_IMAGES = {"x86_64": "amd64", "aarch64": "arm64"}


def name_in_images(machine: str) -> str:
    """The name in images for the architecture that the kernel calls `machine`."""
    return _IN_IMAGES.get(machine, machine)
