"""Files of runtimes: uploaded archives become directories named by their content.

`tar` reads an archive within limits, `archive_rules` says what it may contain, `unpack` writes its
files, and `image_store` manages the directory of images. No archive is trusted, and no link in one
is ever followed.
"""

from quiltfn.images.image_store import ImageDirectory
from quiltfn.images.unpack import ImageLimits

__all__ = ["ImageDirectory", "ImageLimits"]
