"""Matches request paths against a route's path."""


class PathPattern:
    """The pattern of a route's path: `{name}` matches one nonempty segment, and `{name:path}` at
    the end matches the rest. Compiling a regular expression for each route would take too long.
    """

    def __init__(self, path: str) -> None:
        *first, last = path.split("/")
        self._rest = last[1 : -len(":path}")] if last.endswith(":path}") else ""
        segments = first if self._rest else [*first, last]
        self.length = len(segments)
        self._names = [(n, one[1:-1]) for n, one in enumerate(segments) if one.startswith("{")]
        self._words = [(n, one) for n, one in enumerate(segments) if not one.startswith("{")]
        # Sorts patterns: fixed segments before parameters, and parameters before a rest.
        self.rank = [int(one.startswith("{")) for one in segments] + [2] * bool(self._rest)

    def takes(self, segments: int) -> bool:
        """Whether a path with this number of segments can match."""
        return segments > self.length if self._rest else segments == self.length

    def parameters_of(self, segments: list[str]) -> dict[str, str] | None:
        """The parameters by name. None: the path does not match."""
        if not self.takes(len(segments)):
            return None
        for n, word in self._words:
            if segments[n] != word:
                return None
        found = {name: segments[n] for n, name in self._names}
        if "" in found.values():
            return None
        if self._rest:
            found[self._rest] = "/".join(segments[self.length :])
        return found
