"""If-Match: applies a change only if the object has not changed since it was read."""

from quiltfn.api.http.route import AnyContext
from quiltfn.model.errors import PreconditionFailed


def if_match(context: AnyContext) -> set[str] | None:
    """The fingerprints that If-Match allows; None: all. Raises `PreconditionFailed`."""
    given = context.headers.get("if-match")
    if given is None or given.strip() == "*":
        return None
    tags = [tag.strip() for tag in given.split(",")]
    if not all(len(tag) >= 2 and tag[0] == tag[-1] == '"' for tag in tags):
        # A weak tag never matches If-Match (RFC 9110, 13.1.1), and other texts aren't tags.
        details = {"field": "If-Match", "expected": "an ETag as a GET gave it"}
        raise PreconditionFailed(
            f"If-Match must be {details['expected']}", details=details, hint="GET it again"
        )
    return {tag[1:-1] for tag in tags}
