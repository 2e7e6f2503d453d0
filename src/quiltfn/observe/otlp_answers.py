"""Limits how much of a collector's response is read: exporters use only its status.

The server may be broken, or may not be a collector at all. By default, `requests` reads a whole
body, however long it is and however slowly it arrives.
"""

from time import monotonic
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

ANSWER_MAX_BYTES = 64 * 1024


class ShortAnswers(HTTPAdapter):
    """Reads a body, so that the connection can be reused, up to a size limit and `timeout_s`. If a
    limit is reached, the connection is closed.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def send(self, *given: Any, **options: Any) -> requests.Response:
        """Send a request; `requests` calls this. Raises the exceptions of `requests`, also for a
        redirect: its data would be lost, but exporters would count it as a success.
        """
        until = monotonic() + self._timeout_s
        answer = super().send(*given, **options | {"stream": True})
        size, is_over = 0, False
        try:
            while not is_over and size < ANSWER_MAX_BYTES and monotonic() < until:
                part = answer.raw.read1(ANSWER_MAX_BYTES - size, decode_content=False)
                size, is_over = size + len(part), not part
        except (OSError, urllib3.exceptions.HTTPError):
            pass  # the status was already read
        if not is_over:
            answer.raw.close()
        answer.close()
        # Mark the body as read, so that nothing more is read.
        answer._content, answer._content_consumed = b"", True
        if 300 <= answer.raw.status <= 399:
            raise requests.RequestException(f"the collector redirects (status {answer.raw.status})")
        return answer


def session(timeout_s: float) -> requests.Session:
    """A session for one exporter."""
    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, ShortAnswers(timeout_s))
    return made
