"""The files of runtimes: archives that are uploaded become directories named by their content.

`tar` reads an archive within limits, `lint` says what may be in one, `unpack` lays it out, and
`keep` has the directory of images. Nothing here trusts an archive, and nothing in one is ever
followed.
"""

from quiltfn.images.keep import ImageDirectory
from quiltfn.images.unpack import ImageLimits

__all__ = ["ImageDirectory", "ImageLimits"]
