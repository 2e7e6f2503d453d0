"""Requests that two parsers may understand differently, with another request hidden in each."""

import json

from spec.api_client import request

FUNCTIONS = "/api/functions"
JSON = {"Content-Type": "application/json"}


def create(name: str) -> bytes:
    body = json.dumps({"name": name, "handler": "echo"}).encode()
    return request("POST", FUNCTIONS, JSON | {"Content-Length": str(len(body))}, body)


def post(*lines: str, body: bytes = b"", end: str = "\r\n") -> bytes:
    """A POST with exactly these header lines, whose body hides another request."""
    first = [f"POST {FUNCTIONS} HTTP/1.1", "Host: 127.0.0.1", *lines]
    return end.join([*first, "", ""]).encode("latin-1") + body


PHANTOM = create("phantom")
LENGTH = f"Content-Length: {len(PHANTOM)}"
CHUNKED = b"0\r\n\r\n"
HIDDEN = CHUNKED + PHANTOM
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")


def chunked(body: bytes) -> bytes:
    return post("Transfer-Encoding: chunked", body=body)


def hiding(method: str, path: str, *lines: str) -> bytes:
    """A request whose whole body is another request. A parser that does not read the body takes it
    for the next request.
    """
    first = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", LENGTH, *lines]
    return "\r\n".join([*first, "", ""]).encode() + PHANTOM


# In most vectors, a second parser would find a request that creates a function.
REFUSED: dict[str, bytes] = {
    "CL and TE": post(LENGTH, "Transfer-Encoding: chunked", body=CHUNKED + PHANTOM),
    "TE and CL": post("Transfer-Encoding: chunked", LENGTH, body=CHUNKED + PHANTOM),
    "two lengths that differ": post("Content-Length: 0", LENGTH, body=PHANTOM),
    "two lengths the other way": post(LENGTH, "Content-Length: 0", body=PHANTOM),
    "two equal lengths": post("Content-Length: 0", "Content-Length: 0", body=PHANTOM),
    "length with a plus": post("Content-Length: +5", body=PHANTOM),
    "length with a minus": post("Content-Length: -1", body=PHANTOM),
    "length in hexadecimal": post("Content-Length: 0x5", body=PHANTOM),
    "list of lengths": post("Content-Length: 5, 5", body=PHANTOM),
    "length of two words": post("Content-Length: 5 5", body=PHANTOM),
    "length with an underscore": post("Content-Length: 1_0", body=PHANTOM),
    "length of letters": post("Content-Length: five", body=PHANTOM),
    "length that overflows": post(f"Content-Length: {2**64 + 5}", body=PHANTOM),
    "length of nothing": post("Content-Length:", body=PHANTOM),
    "length in other digits": post("Content-Length: \u00b2", body=PHANTOM),
    "unknown TE": post("Transfer-Encoding: xchunked", body=CHUNKED + PHANTOM),
    "TE chunked then identity": post("Transfer-Encoding: chunked, identity", body=HIDDEN),
    "TE identity": post("Transfer-Encoding: identity", body=PHANTOM),
    "unknown TE and chunked": post("Transfer-Encoding: gzip, chunked", body=HIDDEN),
    "unknown TE in a line of its own": post("Transfer-Encoding: gzip", "Transfer-Encoding: chunked",
                                            body=HIDDEN),
    "unknown TE with an upgrade": post("Transfer-Encoding: gzip, chunked", *UPGRADE, body=HIDDEN),
    "CL and TE with an upgrade": post(LENGTH, "Transfer-Encoding: chunked", *UPGRADE, body=HIDDEN),
    "length of 5,000 digits": post(f"Content-Length: {len(PHANTOM):05000}", body=PHANTOM),
    "TE behind a vertical tab": post("Transfer-Encoding:\x0bchunked", body=CHUNKED + PHANTOM),
    "TE in quotes": post('Transfer-Encoding: "chunked"', body=CHUNKED + PHANTOM),
    "space before the colon": post("Content-Length : 0", body=PHANTOM),
    "TE with a space before the colon": post("Transfer-Encoding : chunked", body=CHUNKED + PHANTOM),
    "folded line": post("X: a", f" {LENGTH}", body=PHANTOM),
    "folded TE": post("Transfer-Encoding:", " chunked", body=CHUNKED + PHANTOM),
    "bare line feeds": post("Content-Length: 0", body=PHANTOM, end="\n"),
    "bare carriage returns": post("Content-Length: 0", body=PHANTOM, end="\r"),
    "line feed in a header": post(f"X: a\n{LENGTH}", body=PHANTOM),
    "carriage return in a header": post(f"X: a\r{LENGTH}", body=PHANTOM),
    "NUL in a value": post("X: a\0b", "Content-Length: 0", body=PHANTOM),
    "NUL in a name": post("X\0: a", "Content-Length: 0", body=PHANTOM),
    "header without a colon": post("Rubbish", "Content-Length: 0", body=PHANTOM),
    "header without a name": post(": a", "Content-Length: 0", body=PHANTOM),
    "chunk size of 2^64": chunked(b"10000000000000005\r\n" + PHANTOM),
    "negative chunk size": chunked(b"-1\r\n" + PHANTOM),
    "chunk size with 0x": chunked(b"0x0\r\n\r\n" + PHANTOM),
    "chunk size of letters": chunked(b"zz\r\n" + PHANTOM),
    "chunk that is longer than said": chunked(b"1\r\nabc\r\n" + PHANTOM),
    "chunk end without return": chunked(b"1\na\n0\n\n" + PHANTOM),
    "line feed in a chunk extension": chunked(b"0;a\nb\r\n\r\n" + PHANTOM),
    "100 KB header": post(f"X: {'a' * 100_000}", "Content-Length: 0", body=PHANTOM),
    "10,000 headers": post(*[f"X{n}: a" for n in range(10_000)], "Content-Length: 0", body=PHANTOM),
    "101 headers": post(*[f"X{n}: a" for n in range(101)], "Content-Length: 0", body=PHANTOM),
    "20 KB address": request("GET", f"/{'a' * 20_000}") + PHANTOM,
    "HTTP/0.9": b"GET /health\r\n",
    "HTTP/1.1 in lowercase letters": b"GET /health http/1.1\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "HTTP/3.7": b"GET /health HTTP/3.7\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + PHANTOM,
    "HTTP/2.0": b"GET /health HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "HTTP/0.9 with a version": b"GET /health HTTP/0.9\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "RTSP": b"GET /health RTSP/1.0\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "Icecast": b"SOURCE /health ICE/1.0\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "no host": b"GET /health HTTP/1.1\r\n\r\n" + PHANTOM,
    "two hosts": post("Host: 127.0.0.1", "Content-Length: 0", body=PHANTOM),
    "no method": b" /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "unknown method": b"BREW /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "CONNECT to a host": hiding("CONNECT", "127.0.0.1:1"),
    "CONNECT to a path": hiding("CONNECT", "/health"),
    "CONNECT to an address": hiding("CONNECT", "http://127.0.0.1/health"),
    "method of Icecast": hiding("SOURCE", "/health"),
    "space in the address": b"GET /he alth HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + PHANTOM,
    "TLS hello": bytes.fromhex("16030100a5010000a10303") + b"x" * 160,
}  # fmt: skip

MUCH = PHANTOM * (2 * 1024 * 1024 // len(PHANTOM))
CHUNK = b"%x\r\n%s\r\n"
# Well-formed requests, which a proxy passes on. Each is one request, which the server may refuse
# before it has read the body.
ONE_REQUEST: dict[str, bytes] = {
    "GET": hiding("GET", "/health"),
    "GET that is answered early": hiding("GET", FUNCTIONS),
    "GET of no route": hiding("GET", "/nowhere"),
    "HEAD": hiding("HEAD", "/health"),
    "OPTIONS": hiding("OPTIONS", FUNCTIONS),
    "DELETE": hiding("DELETE", f"{FUNCTIONS}/nobody"),
    "PATCH": hiding("PATCH", FUNCTIONS),
    "POST of no route": hiding("POST", "/nowhere"),
    "POST without a type": hiding("POST", FUNCTIONS),
    "POST of no JSON": hiding("POST", FUNCTIONS, "Content-Type: application/json"),
    "POST to nobody": hiding("POST", f"{FUNCTIONS}/invoke/nobody"),
    "POST that waits for 100": hiding("POST", FUNCTIONS, "Expect: 100-continue"),
    "POST that expects more": hiding("POST", FUNCTIONS, "Expect: a-phantom"),
    "upgrade to a socket": hiding("GET", "/health", "Connection: Upgrade", "Upgrade: websocket"),
    "upgrade to HTTP/2": hiding("GET", "/health", "Connection: Upgrade", "Upgrade: h2c"),
    "upgrade of a POST": hiding("POST", f"{FUNCTIONS}/invoke/nobody", *UPGRADE),
    "upgrade of chunks": request("POST", f"{FUNCTIONS}/invoke/nobody",
                                 {"Connection": "Upgrade", "Upgrade": "websocket",
                                  "Transfer-Encoding": "chunked"},
                                 CHUNK % (len(PHANTOM), PHANTOM) + CHUNKED),
    "length named as hop by hop": hiding("POST", FUNCTIONS, "Connection: Content-Length"),
    "length with an underscore in its name": hiding("POST", FUNCTIONS, "Content_Length: 0"),
    "TE with an underscore in its name": hiding("POST", FUNCTIONS, "Transfer_Encoding: chunked"),
    "line end in the address": hiding("GET", "/health%0d%0aContent-Length:%200%0d%0a%0d%0a"),
    "fragment in the address": hiding("GET", "/health#/../.."),
    "foreign origin": hiding("POST", FUNCTIONS, "Origin: http://evil.test"),
    "HTTP/1.0": hiding("GET", "/health").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "too long": request("POST", FUNCTIONS, JSON | {"Content-Length": str(len(MUCH))}, MUCH),
    "chunks": chunked(CHUNK % (len(PHANTOM), PHANTOM) + CHUNKED),
    "chunks to a GET": request("GET", "/health", {"Transfer-Encoding": "chunked"},
                               CHUNK % (len(PHANTOM), PHANTOM) + CHUNKED),
    "chunk with an extension": chunked(b"%x;a=b\r\n%s\r\n" % (len(PHANTOM), PHANTOM) + CHUNKED),
    "chunks with a trailer": chunked(CHUNK % (len(PHANTOM), PHANTOM)
                                     + b"0\r\nHost: evil.test\r\nContent-Length: 0\r\n\r\n"),
    "chunks that are too long": chunked(CHUNK % (len(MUCH), MUCH) + CHUNKED),
}  # fmt: skip
