"""The files of runtimes: archives that are uploaded become directories named by their content.

`tar` reads an archive within limits, `archive_rules` says what may be in one, `unpack` writes its
files, and `image_store` has the directory of images. Nothing here trusts an archive, and nothing in
one is ever followed.
"""

from quiltfn.images.image_store import ImageDirectory
from quiltfn.images.unpack import ImageLimits

__all__ = ["ImageDirectory", "ImageLimits"]
