"""quiltfn: serverless functions on your own Linux machine, fenced and warm."""

__version__ = "0.1.0"
