"""Sends traces, metrics and logs to an OpenTelemetry collector if the settings name one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import structlog

from quiltfn import __version__
from quiltfn.host.health import HostFacts
from quiltfn.observe import log, metrics
from quiltfn.observe.trace import Tracer
from quiltfn.ports import Clock
from quiltfn.settings import Settings

if TYPE_CHECKING:
    from quiltfn.observe.otlp import Sender

_log = structlog.get_logger("quiltfn.server.telemetry")


class CannotSend(Exception):
    """The settings cannot be applied here; the message is a sentence for the operator."""


class Telemetry(msgspec.Struct, frozen=True):
    """`tracer` and `sender`: None if nothing is traced or sent."""

    tracer: Tracer | None = None
    sender: "Sender | None" = None
    metrics_s: float | None = None

    async def send_metrics(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Send the metrics periodically until cancelled, if the settings ask for metrics.
        `refresh`: updates the metrics that are not counted continuously.
        """
        while self.sender is not None and self.metrics_s is not None:
            await asyncio.sleep(self.metrics_s)
            try:
                await refresh()
            except Exception:  # after a bug, later metrics are sent nevertheless
                _log.exception("metrics could not be read; this is retried")
            else:
                self.sender.put_metrics(metrics.families())


@asynccontextmanager
async def open_telemetry(
    chosen: Settings, machine: HostFacts, clock: Clock, headers: bytes | None
) -> AsyncIterator[Telemetry]:
    """`headers`: the contents of `otlp_headers_file`. Raises `CannotSend`."""
    metrics.started(__version__, clock.unix())
    if not chosen.otlp_endpoint:
        yield Telemetry()
        return
    try:
        # Imported late: the import takes a tenth of a second, and needs an optional extra.
        from quiltfn.observe.otlp import LOGS, METRICS, TRACES, Sender, Target  # noqa: PLC0415
    except ImportError as error:
        raise CannotSend(
            "otlp_endpoint is set, but the exporter is not installed; install quiltfn[otel] "
            f"({error})"
        ) from None
    signals = frozenset(chosen.words("otlp_signals"))
    target = Target(
        endpoint=chosen.otlp_endpoint,
        signals=signals,
        headers=headers_of(headers or b""),
        resource={
            "service.name": "quiltfn",
            "service.version": __version__,
            "service.instance.id": machine.node_id,
        },
    )
    sender = Sender(target, clock.unix)
    tracer = None
    if TRACES in signals:
        tracer = Tracer(clock.unix, clock.now, chosen.otlp_sample_ratio, sender.put_traced)
    if LOGS in signals:
        log.read_by(sender.put_line)
    sender.start()
    try:
        yield Telemetry(tracer, sender, chosen.otlp_metrics_s if METRICS in signals else None)
    finally:
        log.read_by(None)
        await asyncio.to_thread(sender.close)


def headers_of(text: bytes) -> dict[str, str]:
    """Parse headers from a file with one `name: value` per line. Raises `CannotSend`."""
    headers = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        is_name = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        if not (colon and is_name and value.isascii() and value.isprintable()):
            raise CannotSend(f"otlp_headers_file: line {number} must be a header, name: value")
        headers[name] = value
    return headers
