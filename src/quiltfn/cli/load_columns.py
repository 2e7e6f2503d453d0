"""The columns of `quiltfn top`, and which of them a narrow terminal does without, first to last."""

HEAD: tuple[str, ...] = ("FUNCTION", "VERSION", "READY", "BUSY", "STARTING", "PARKED")
HEAD += ("CALLS/S", "P50", "P99", "ERRORS", "MEMORY")
DROP = ("MEMORY", "PARKED", "VERSION", "STARTING")
