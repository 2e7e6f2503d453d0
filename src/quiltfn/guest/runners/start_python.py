"""Starts the runner of Python handlers (python.py) from its compiled form, where there is one.

Python compiles the file that it is started with each time, and a process that has done that for the
whole runner keeps a megabyte more, in every idle instance. The launcher compiles it once, for its
own Python (`launcher/host_image.py`); any other Python compiles the source as usual.
"""

from _frozen_importlib_external import SourceFileLoader

__file__ = __file__.rpartition("/")[0] + "/python.py"
code = SourceFileLoader("__main__", __file__).get_code("__main__")
assert code is not None
exec(code)
