"""An LRU cache of the packages of images. Images are immutable, so entries never become stale."""

from collections import OrderedDict

from quiltfn.images.jobs import Packages

# Maximum packages of all lists together; each list counts as one more.
KEPT_MAX = 20_000


class PackageCache:
    """Lists of packages by the digest of their image; the least recently used is dropped first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Packages] = OrderedDict()
        self._count = 0

    def get(self, digest: str) -> Packages | None:
        """Returns the packages of an image, if cached."""
        packages = self._kept.get(digest)
        if packages is not None:
            self._kept.move_to_end(digest)
        return packages

    def put(self, digest: str, packages: Packages) -> None:
        """Caches the packages of an image, and drops other lists if there are too many."""
        # Two requests may have listed an image at the same time.
        replaced = self._kept.pop(digest, None)
        if replaced is not None:
            self._count -= len(replaced.found) + 1
        self._kept[digest] = packages
        self._count += len(packages.found) + 1
        while self._count > KEPT_MAX:
            _, gone = self._kept.popitem(last=False)
            self._count -= len(gone.found) + 1
