"""The columns of `quiltfn top`, and the order in which a narrow terminal omits them."""

HEAD: tuple[str, ...] = ("FUNCTION", "VERSION", "READY", "BUSY", "STARTING", "PARKED")
HEAD += ("INVOKED/S", "P50", "P99", "ERRORS", "MEMORY")
DROP = ("MEMORY", "PARKED", "VERSION", "STARTING")
