"""Settings of a server, which only this module reads from the environment. It needs nothing outside
the standard library and `base`.

Every setting is a field here. Its value comes from, in order of precedence, the command line
(`--idle-s 60`), the environment (`QUILTFN_IDLE_S=60`), or the TOML file that `--config` names
(`idle_s = 60`). `docs/reference/settings.md` is generated from this file.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, parse_qsl, urlsplit

from quiltfn.base.immutable import Frozen
from quiltfn.base.setting_files import BadSetting, read_config, read_secret

PREFIX = "QUILTFN_"
DAY_S = 86_400
TEN_YEARS_S = 3650 * DAY_S
MIB = 1024 * 1024
MEMORY_MIN_MIB = 256
POLICIES = ("fixed", "histogram")
DURABILITIES = ("relaxed", "strict")
# Settings that are lists of words, and the allowed words.
CHOICES = {
    "tenant_runtime_kinds": ("python", "node", "shell", "custom", "server"),
    "tenant_runtime_isolations": ("crun", "gvisor"),
    "tenant_runtime_networks": ("none", "egress"),
    "otlp_signals": ("traces", "metrics", "logs"),
}
# The options of libpq for the address of a database and the verification of its server.
STORE_OPTIONS = (
    *("host", "port", "sslmode", "sslrootcert", "sslnegotiation", "channel_binding"),
    *("gssencmode", "requirepeer", "target_session_attrs"),
)
# Maximum seconds until a node's last instance has ended if its launcher is stalled: the server
# waits half a second for the launcher, and then five for the guest (`sandbox/guest.py`).
FLEET_ENDING_S = 6.0
# The accepted forms of values, by the type of the setting.
KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (str, int)),
    float: ("a number", (str, int, float)),
    str: ("text", (str,)),
    Path: ("a path", (str, Path)),
}
# Settings by their old names, which still work.
RENAMED = {"stem_cells": "prewarmed", "line_max": "queue_max", "line_wait_s": "queue_wait_s"}
# Variables that begin like settings but are not settings: the path of the settings file, the
# launcher's mark on its processes, the profile of client commands, and those of this project's
# tests, benchmarks and scripts.
OTHER_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        *("CONFIG", "SERVER", "PROFILE", "MACHINE", "TRACE"),
        "FUZZ_TARGET",
        "HOSTILE_IN_FULL",
        "THROW_AWAY_MACHINE",
        "TEST_JUMP",
        "TEST_TIME_FACTOR",
        "TEST_BUSY_FACTOR",
    )
)
HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")
T = TypeVar("T")


class Setting:
    """One setting. `kind`: a type of `KINDS`; `low` and `high`: the range of a number."""

    name: str
    kind: Any

    def __init__(self, default: Any, about: str, low: float | None, high: float | None) -> None:
        self.default, self.about, self.low, self.high = default, about, low, high

    def __set_name__(self, settings: type["Settings"], name: str) -> None:
        """Replaces itself in the class by its default."""
        self.name, self.kind = name, settings.__annotations__[name]
        SETTINGS.append(self)
        setattr(settings, name, self.default)


SETTINGS: list[Setting] = []


def setting(default: T, about: str, *, low: float | None = None, high: float | None = None) -> T:
    """A setting with its meaning and, for numbers, its range."""
    return cast("T", Setting(default, about, low, high))


class Settings(Frozen):
    """`*_s` in seconds, `*_bytes` in bytes. Created by `from_everywhere`."""

    host: str = setting("127.0.0.1", "address to listen on; other than loopback needs a key")
    port: int = setting(8080, "port to listen on; 0 picks a free one", low=0, high=65_535)
    data_dir: Path = setting(
        Path("data"), "directory of the database; with store, of everything that isn't in it"
    )
    store: str = setting(
        "",
        "PostgreSQL database for state: postgresql://USER@HOST/DATABASE; empty: SQLite in data_dir",
    )
    store_password_file: Path = setting(Path(), "file with the password of that USER")
    fleet: Path = setting(
        Path(),
        "this node's file from quiltfn fleet add-node, which makes the server a node of that fleet",
    )
    run_dir: Path = setting(Path("/run/quiltfn"), "run-time state; cleaned up after a crash")
    crun: str = setting("/usr/bin/crun", "OCI runtime")
    runsc: str = setting("/usr/bin/runsc", "gVisor, for runtimes with isolation: gvisor")
    node_id: str = setting("", "this node's name in records; empty: the host's name")
    tls_cert: Path = setting(Path(), "PEM file with the certificate chain; serves HTTPS")
    tls_key: Path = setting(Path(), "PEM file with the certificate's key")
    jwt_secret: Path = setting(Path(), "file with the secret of HS256 tokens, 32 bytes or more")
    jwt_jwks: Path = setting(Path(), "JWKS file with the public keys of RS256 and ES256 tokens")
    record_key_file: Path = setting(
        Path(), "file with the encryption key of stored inputs, 32 bytes or more"
    )
    prewarmed: int = setting(4, "prewarmed sandboxes per runtime in use; 0: none", high=64)
    memory_budget_mib: int = setting(
        0,
        "memory budget of all instances, 256 or more; 0: three quarters of the machine's memory",
        low=0,
        high=2**31,
    )
    idle_s: float = setting(300.0, "keep-alive of an idle instance", low=0, high=DAY_S)
    keep_alive: str = setting(
        "fixed",
        "keep-alive policy; fixed: idle_s for every instance; histogram: adapted to the times "
        "between invocations",
    )
    park_s: float = setting(
        TEN_YEARS_S,
        "how long a Python function's last instance stays parked after that, unless its memory "
        "is needed; 0: never parked",
        low=0,
        high=TEN_YEARS_S,
    )
    rollback_grace_s: float = setting(
        60.0,
        "how long instances of the previous version are kept for a rollback",
        low=0,
        high=DAY_S,
    )
    drain_s: float = setting(
        30.0, "grace period of running invocations after SIGTERM", low=0, high=DAY_S
    )
    queue_max: int = setting(
        1000, "maximum waiting invocations per version of a function", low=0, high=100_000
    )
    queue_wait_s: float = setting(
        10.0, "maximum wait of an invocation for an instance", low=0.1, high=900
    )
    body_max_bytes: int = setting(
        MIB, "maximum body of a management request", low=1024, high=64 * MIB
    )
    invoke_body_max_bytes: int = setting(
        8 * MIB, "maximum body of an invocation", low=1024, high=64 * MIB
    )
    server_body_max_bytes: int = setting(
        1024 * MIB,
        "maximum body that is streamed to a web server",
        low=64 * 1024,
        high=1024 * 1024 * MIB,
    )
    body_timeout_s: float = setting(
        30.0,
        "timeout of a body, or of each 64 KiB of an image or of a body streamed to a web server",
        low=1,
        high=900,
    )
    stdout_max_bytes: int = setting(
        6 * MIB,
        "maximum stored standard output per invocation",
        low=64 * 1024,
        high=64 * MIB,
    )
    result_max_bytes: int = setting(
        0,
        "maximum value that a handler returns; 0: it counts as standard output",
        low=0,
        high=64 * MIB,
    )
    stderr_max_bytes: int = setting(
        MIB, "maximum stored standard error per invocation", low=64 * 1024, high=64 * MIB
    )
    timeout_max_s: int = setting(
        DAY_S, "maximum timeout_seconds of a function", low=1, high=30 * DAY_S
    )
    image_upload_max_bytes: int = setting(
        512 * MIB, "maximum archive of a runtime's files", low=1024, high=64 * 1024 * MIB
    )
    image_max_bytes: int = setting(
        2048 * MIB, "maximum unpacked size of a runtime's files", low=1, high=64 * 1024 * MIB
    )
    image_files_max: int = setting(
        100_000, "maximum files, directories and links of a runtime", low=1, high=2_000_000
    )
    image_unpack_s: int = setting(
        300,
        "CPU time limit for unpacking an archive; the wall-clock limit is four times that",
        low=1,
        high=DAY_S,
    )
    image_grace_s: float = setting(600.0, "how long an unused image is kept", low=1, high=DAY_S)
    head_max_bytes: int = setting(
        16 * 1024, "maximum request head: request line and headers", low=1024, high=MIB
    )
    head_timeout_s: float = setting(10.0, "timeout of a request head", low=1, high=900)
    keep_alive_s: int = setting(15, "keep-alive of an idle connection", low=1, high=3600)
    connections_max: int = setting(
        2000,
        "maximum connections, and at most half of the system's open file limit",
        low=8,
        high=100_000,
    )
    write_timeout_s: float = setting(
        30.0, "timeout for a caller to read each 64 KiB of a response", low=1, high=900
    )
    bodies_max_bytes: int = setting(
        64 * MIB,
        "memory for bodies over 16 KiB of invocations that arrive, wait or run; at most half "
        "for one tenant, and a quarter for callers of its URLs without a credential",
        low=MIB,
        high=64 * 1024 * MIB,
    )
    page_max_bytes: int = setting(
        8 * MIB,
        "maximum page of a list; a page has at least one entry, entries are whole, and a cursor "
        "leads to the rest",
        low=MIB,
        high=256 * MIB,
    )
    functions_max_bytes: int = setting(
        48 * MIB,
        "memory for handlers and environments of all functions, including about 2 KiB each; at "
        "most half for one tenant",
        low=MIB,
        high=64 * 1024 * MIB,
    )
    tenant_calls_in_flight: int = setting(
        1000, "maximum running and waiting invocations per tenant", low=1, high=1_000_000
    )
    tenant_calls_per_s: float = setting(
        0.0, "maximum invocations per second per tenant; 0: unlimited", low=0, high=1_000_000
    )
    tenant_gb_seconds_per_day: float = setting(
        0.0,
        "maximum GB-seconds (memory limit times duration) per tenant and day (UTC); 0: unlimited",
        low=0,
        high=1e12,
    )
    tenant_streams: int = setting(100, "maximum open event streams per tenant", low=1, high=100_000)
    tenant_functions: int = setting(10_000, "maximum functions per tenant", low=1, high=1_000_000)
    versions_kept: int = setting(
        100,
        "versions kept per function, besides those that aliases and stored inputs refer to",
        low=2,
        high=100_000,
    )
    tenant_version_bytes: int = setting(
        256 * MIB,
        "maximum bytes of versions per tenant, shared equally by its functions; 0: unlimited",
        low=0,
        high=2**50,
    )
    tenant_instances: int = setting(
        1000,
        "maximum instances per tenant, in any state; a machine has room for 3,839",
        low=1,
        high=1_000_000,
    )
    tenant_schedules: int = setting(1000, "maximum schedules per tenant", low=0, high=100_000)
    tenant_runtimes: int = setting(
        100, "maximum runtimes per tenant; operators can add more", low=0, high=100_000
    )
    tenant_image_bytes: int = setting(
        4096 * MIB,
        "maximum bytes of images per tenant: content, plus 4,096 for each file, link and directory",
        low=0,
        high=2**50,
    )
    images_bytes: int = setting(
        32 * 1024 * MIB,
        "the same for all images together, each counted once; 0: unlimited",
        low=0,
        high=2**50,
    )
    tenant_runtime_kinds: str = setting(
        ",".join(CHOICES["tenant_runtime_kinds"]),
        "kinds of runtimes that tenants may add; operators may add any",
    )
    tenant_runtime_isolations: str = setting(
        "crun", "isolations of runtimes that tenants may add: crun, gvisor"
    )
    tenant_runtime_networks: str = setting(
        "none", "networks of runtimes that tenants may add: none, egress"
    )
    sandbox_processes_max: int = setting(
        4096,
        "upper bound of a runtime's process_limit; runtimes without one get 512",
        low=16,
        high=32_768,
    )
    sandbox_tmp_max_mib: int = setting(
        10_240,
        "upper bound of a runtime's tmp_limit_mb, which counts toward memory; runtimes without "
        "one get 512",
        low=1,
        high=2**20,
    )
    sandbox_file_max_mib: int = setting(
        10_240,
        "upper bound of a runtime's file_limit_mb; runtimes without one get as much as /tmp",
        low=1,
        high=2**20,
    )
    sandbox_open_files_max: int = setting(
        65_536,
        "upper bound of a runtime's open_files_limit, and at most the launcher's own limit; "
        "runtimes without one get 4096",
        low=64,
        high=2**20,
    )
    egress_dns: str = setting("", "DNS resolver of sandboxes with egress; empty: the host's")
    url_host: str = setting(
        "",
        "separate host of function URLs, such as fn.example.com, which serves them only there, "
        "and no API; empty: the API's host, where browsers sandbox their pages",
    )
    callback_networks: str = setting(
        "",
        "networks that callbacks may reach besides public addresses, such as 10.0.0.0/8, "
        "comma-separated",
    )
    deliveries_bytes: int = setting(
        512 * MIB, "maximum bytes of deliveries; 0: unlimited", low=0, high=2**50
    )
    tenant_deliveries_bytes: int = setting(
        128 * MIB, "the same per tenant; 0: unlimited", low=0, high=2**50
    )
    durability: str = setting(
        "relaxed", "relaxed, or strict: an invocation's record is synced before its response"
    )
    keep_invocations: int = setting(
        1_000_000, "maximum invocation records; 0: unlimited", low=0, high=1_000_000_000
    )
    keep_invocations_days: int = setting(
        7, "days to keep invocation records; 0: unlimited", low=0, high=36_500
    )
    keep_invocations_bytes: int = setting(
        4096 * MIB,
        "maximum bytes of invocation records, with output; 0: unlimited",
        low=0,
        high=2**50,
    )
    tenant_invocations_bytes: int = setting(
        2048 * MIB, "the same per tenant; 0: unlimited", low=0, high=2**50
    )
    keep_answers_bytes: int = setting(
        1024 * MIB,
        "maximum bytes of responses stored for Idempotency-Key; 0: unlimited",
        low=0,
        high=2**50,
    )
    tenant_answers_bytes: int = setting(
        256 * MIB, "the same per tenant; 0: unlimited", low=0, high=2**50
    )
    keep_inputs_bytes: int = setting(
        1024 * MIB,
        "maximum bytes of stored inputs, of asynchronous invocations that wait and of "
        "invocations that are over; 0: unlimited",
        low=0,
        high=2**50,
    )
    tenant_inputs_bytes: int = setting(
        256 * MIB, "the same per tenant; 0: unlimited", low=0, high=2**50
    )
    stats_bytes: int = setting(
        256 * MIB,
        "maximum bytes of statistics, for time series and usage; 0: unlimited",
        low=0,
        high=2**50,
    )
    tenant_stats_bytes: int = setting(
        64 * MIB, "the same per tenant; 0: unlimited", low=0, high=2**50
    )
    audit_days: int = setting(
        90, "days to keep the audit log and ended operations", low=1, high=36_500
    )
    audit_bytes: int = setting(
        512 * MIB, "maximum bytes of the audit log and operations; 0: unlimited", low=0, high=2**50
    )
    tenant_audit_bytes: int = setting(
        128 * MIB, "the same per tenant; 0: unlimited", low=0, high=2**50
    )

    otlp_endpoint: str = setting(
        "", "URL of an OpenTelemetry collector, such as http://127.0.0.1:4318; empty: none"
    )
    otlp_signals: str = setting(
        "traces,metrics,logs", "signals to export: traces, metrics, logs, comma-separated"
    )
    otlp_sample_ratio: float = setting(
        1.0,
        "share of the traces started here that is exported; for others the caller decides",
        low=0,
        high=1,
    )
    otlp_metrics_s: float = setting(60.0, "export interval of metrics", low=1, high=3600)
    otlp_headers_file: Path = setting(
        Path(), 'file with headers for the collector, such as a key: one "name: value" per line'
    )

    fleet_beat_s: float = setting(2.0, "heartbeat interval of a node", low=0.1, high=60)
    fleet_fence_s: float = setting(
        10.0,
        "a node without a successful heartbeat for this long starts nothing; at least twice "
        "fleet_beat_s",
        low=0.5,
        high=600,
    )
    fleet_end_s: float = setting(
        60.0, "after this long its instances end; more than fleet_fence_s", low=1, high=3600
    )
    fleet_reap_s: float = setting(
        100.0,
        f"after this long other nodes take it over; at least {FLEET_ENDING_S:g} s more than "
        "fleet_end_s",
        low=1 + FLEET_ENDING_S,
        high=7200,
    )

    def check(self) -> None:
        """See `Frozen`. Raises `BadSetting`."""
        for setting in SETTINGS:
            value, low, high = getattr(self, setting.name), setting.low, setting.high
            if low is None or high is None:
                continue
            if not low <= value <= high:  # this also refuses NaN
                raise BadSetting(f"{setting.name} must be between {low} and {high}, not {value}")
        if (self.tls_cert == Path()) != (self.tls_key == Path()):
            raise BadSetting("tls_cert and tls_key must be set together")
        if self.egress_dns and not _is_address(self.egress_dns):
            raise BadSetting(f"egress_dns must be an IP address, not {self.egress_dns!r}")
        if self.keep_alive not in POLICIES:
            raise BadSetting(f"keep_alive must be fixed or histogram, not {self.keep_alive!r}")
        for name in CHOICES:
            self.words(name)
        self.callback_ranges()
        self._check_store()
        self._check_fleet()
        if self.otlp_endpoint and not _is_http_url(self.otlp_endpoint):
            raise BadSetting(
                "otlp_endpoint must be a URL with http or https and no query, such as "
                f"http://127.0.0.1:4318, not {self.otlp_endpoint!r}"
            )
        if self.url_host and not HOST_NAME.fullmatch(self.url_host):
            raise BadSetting(
                f"url_host must be a host's name without a port, such as fn.example.com, not "
                f"{self.url_host!r}"
            )
        if 0 < self.memory_budget_mib < MEMORY_MIN_MIB:
            raise BadSetting(
                f"memory_budget_mib must be 0 or at least {MEMORY_MIN_MIB}, the memory of the "
                f"smallest function, not {self.memory_budget_mib}"
            )
        if self.durability not in DURABILITIES:
            raise BadSetting(f"durability must be relaxed or strict, not {self.durability!r}")
        try:
            is_loopback(self.host)
        except ValueError:
            raise BadSetting(
                f"host must be an IP address or localhost, not {self.host!r}"
            ) from None

    def _check_store(self) -> None:
        if self.store:
            check_store("store", self.store)
        elif self.store_password_file != Path():
            raise BadSetting("store_password_file requires store")

    def _check_fleet(self) -> None:
        """Checks that each time leaves room for the steps before the next one."""
        beat, fence = self.fleet_beat_s, self.fleet_fence_s
        end, reap = self.fleet_end_s, self.fleet_reap_s
        if fence < 2 * beat:
            raise BadSetting(
                f"fleet_fence_s must be at least twice fleet_beat_s, which is {beat:g}: one "
                f"heartbeat may be lost; it is {fence:g}"
            )
        if end <= fence:
            raise BadSetting(
                f"fleet_end_s must be more than fleet_fence_s, which is {fence:g}: a node stops "
                f"starting work before it ends running work; it is {end:g}"
            )
        if reap < end + FLEET_ENDING_S:
            raise BadSetting(
                f"fleet_reap_s must be at least {FLEET_ENDING_S:g} more than fleet_end_s, which is "
                f"{end:g}: a node must have ended its work before others repeat that; it is "
                f"{reap:g}"
            )

    @property
    def output_max(self) -> tuple[int, ...]:
        """Maximum stored bytes of an invocation: standard output, standard error and, if it has its
        own limit, the result, which otherwise counts as standard output.
        """
        streams = (self.stdout_max_bytes, self.stderr_max_bytes)
        return (*streams, self.result_max_bytes) if self.result_max_bytes else streams

    def callback_ranges(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The ranges of `callback_networks`. Raises `BadSetting`."""
        found = []
        for word in filter(None, map(str.strip, self.callback_networks.split(","))):
            try:
                found.append(ipaddress.ip_network(word))
            except ValueError:
                raise BadSetting(
                    f"callback_networks must be ranges such as 10.0.0.0/8, not {word!r}"
                ) from None
        return found

    def words(self, name: str) -> list[str]:
        """The words in a setting that is a comma-separated list. Raises `BadSetting`."""
        found = [word for word in map(str.strip, getattr(self, name).split(",")) if word]
        for word in found:
            if word not in CHOICES[name]:
                choice = ", ".join(CHOICES[name])
                raise BadSetting(
                    f"{name} must be a comma-separated list of: {choice}; not {word!r}"
                )
        return found


def check_store(name: str, url: str) -> None:
    """Raises `BadSetting` for an invalid database URL. No error repeats the URL, which may contain
    a password.
    """
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        parts, query = urlsplit(""), {}
    if parts.password is not None or "password" in query:
        raise BadSetting(
            f"{name} must not contain a password, since others can read it there: use a file"
        )
    is_plain = url.isascii() and url.isprintable() and " " not in url and not parts.fragment
    is_whole = parts.scheme in ("postgresql", "postgres") and parts.username and parts.path[1:]
    if not (is_plain and is_whole) or "/" in parts.path[1:]:
        raise BadSetting(f"{name} must be postgresql://USER@HOST/DATABASE")
    for word in query:
        if word not in STORE_OPTIONS:
            known = ", ".join(STORE_OPTIONS)
            raise BadSetting(f"{name} may have the options {known} after its ?, not {word!r}")


def is_store_verified(url: str) -> bool:
    """Whether nobody can impersonate the database server: it is on this machine, or its certificate
    is checked.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if options.get("sslrootcert") == "system" or "verify" in options.get("sslmode", ""):
        return True
    places = parts.netloc.rpartition("@")[2].split(",")
    named = [urlsplit(f"//{one}").hostname or "" for one in places]
    hosts = options["host"].split(",") if "host" in options else named
    return all(_is_this_machine(host) for host in hosts)


def _is_this_machine(host: str) -> bool:
    """Whether a host is a Unix socket (also by an empty name) or a loopback address."""
    if host.startswith("/") or host in ("", "localhost"):
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def store_secret(chosen: Settings) -> str | None:
    """The contents of `store_password_file`, if it is set. Raises `BadSetting`."""
    name, path = "store_password_file", chosen.store_password_file
    return None if path == Path() else read_secret(name, path)


def password_in(name: str, secret: str) -> str:
    """The password in a file that contains nothing else. Raises `BadSetting`."""
    password = secret.rstrip("\r\n")
    if not password or not password.isprintable():
        raise BadSetting(f"{name} must contain one line, the password")
    return password


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. Raises `ValueError` for an invalid
    address.
    """
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    is_plain = text.isascii() and text.isprintable() and " " not in text
    is_plain = is_plain and not (parts.query or parts.fragment or "@" in parts.netloc)
    return is_plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def config_of(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> str | None:
    """The path of the settings file, if there is one."""
    environ = os.environ if environ is None else environ
    return given.get("config") or environ.get(PREFIX + "CONFIG")


def from_everywhere(
    given: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    in_file: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from the command line (None: not given), the environment and the settings file.
    `in_file`: the file's settings, if it was already read.

    Raises `BadSetting`.
    """
    environ = os.environ if environ is None else environ
    in_file = _read_named(given, environ) if in_file is None else in_file
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        name = setting.name
        for value in _given_as(name, given, environ, in_file):
            if value is not None:
                values[name] = _converted(name, setting.kind, value)
                break
    # Resolved here because the server has another working directory.
    values.setdefault("data_dir", Path("data").absolute())
    if values.get("fleet", Path()) != Path():
        _check_node(values)
    else:
        values["node_id"] = values.get("node_id") or socket.gethostname()
    return Settings(**values)


def _check_node(values: Mapping[str, Any]) -> None:
    """Raises `BadSetting` for settings that conflict with a node's file."""
    for name in ("store", "store_password_file", "node_id"):
        if values.get(name, "") not in ("", Path()):
            raise BadSetting(f"{name} cannot be combined with fleet: the node's file sets it")


def _read_named(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    config = config_of(given, environ)
    return read_file(Path(config)) if config else {}


def old_names(
    given: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    in_file: Mapping[str, Any] | None = None,
) -> list[str]:
    """A sentence for each setting that any source gives by an old name. Raises `BadSetting`."""
    environ = os.environ if environ is None else environ
    in_file = _read_named(given, environ) if in_file is None else in_file
    return [
        f"the setting {old} is now called {new}; the old name still works"
        for old, new in RENAMED.items()
        if any(value is not None for value in _values_of(old, given, environ, in_file))
    ]


def warnings_of(given: Mapping[str, Any], in_file: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that the user should check."""
    return [*old_names(given, in_file=in_file), *unknown_variables()]


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each variable that begins like a setting but is not one. This is no error as
    in a settings file, since the environment may have other programs' variables.
    """
    environ = os.environ if environ is None else environ
    names = [*(one.name for one in SETTINGS), *RENAMED]
    known = {PREFIX + name.upper() for name in names} | OTHER_VARIABLES
    return [
        f"the variable {name} is ignored: {name.removeprefix(PREFIX).lower()} is not a setting"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]


def _given_as(name: str, *sources: Mapping[str, Any]) -> list[Any]:
    """The values of a setting from all sources, under its name or an old one, in order of
    precedence.
    """
    names = [name, *(old for old, new in RENAMED.items() if new == name)]
    by_name = [_values_of(one, *sources) for one in names]
    return [value for of_source in zip(*by_name, strict=True) for value in of_source]


def _values_of(
    name: str, given: Mapping[str, Any], environ: Mapping[str, str], in_file: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    return given.get(name), environ.get(PREFIX + name.upper()), in_file.get(name)


def read_file(path: Path, text: str | None = None) -> dict[str, Any]:
    """The settings in a TOML file. `text`: the file's text, if it was already read. Raises
    `BadSetting`, also for a name that is not a setting.
    """
    import tomllib  # noqa: PLC0415 — most servers have no such file

    try:
        found = tomllib.loads(read_config(path) if text is None else text)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"the settings file {path} cannot be read: {error}") from None
    known = {one.name for one in SETTINGS}
    for name in found:
        if name not in known and name not in RENAMED:
            raise BadSetting(f"{path}: {name} is not a setting")
    return found


def _converted(name: str, kind: Any, value: Any) -> Any:
    """A value as the setting's type; values from a file may already have it."""
    wanted, allowed = KINDS[kind]
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise BadSetting(f"{name} must be {wanted}, not {value!r}")
    if kind is Path:
        return Path() if value in ("", Path()) else Path(str(value)).absolute()
    try:
        return kind(value)
    except ValueError:
        raise BadSetting(f"{name} must be {wanted}, not {value!r}") from None
