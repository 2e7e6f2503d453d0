"""Starts the runner of Python handlers (python.py) from its compiled form, if there is one.

Python compiles its main file at every start. For the whole runner, that would take a megabyte of
memory in every idle instance. So the launcher compiles the runner once, for its own version of
Python (`launcher/host_image.py`); other versions compile the source as usual.
"""

from _frozen_importlib_external import SourceFileLoader

__file__ = __file__.rpartition("/")[0] + "/python.py"
code = SourceFileLoader("__main__", __file__).get_code("__main__")
assert code is not None
exec(code)
