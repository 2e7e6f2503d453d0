"""The routes about the server itself: its version, limits, health and metrics."""

import asyncio
import contextlib
import os
import platform
from typing import Protocol

from quiltfn import __version__, wire
from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.help import Texts, health_text
from quiltfn.api.http import parse
from quiltfn.api.http.response import JSON, Response, json_response, text_response
from quiltfn.api.http.route import (
    Handler,
    Parameter,
    RequestContext,
    Route,
    RouteServices,
    Unverified,
)
from quiltfn.api.routes import web
from quiltfn.api.routes.parameters import OPERATOR, READ
from quiltfn.api.services import Services
from quiltfn.calls.work import Work
from quiltfn.functions.runtimes import Runtimes
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.host.health import Health
from quiltfn.model.errors import ShuttingDown, StoreUnavailable
from quiltfn.model.runtime import EVERYWHERE, Isolation
from quiltfn.observe import metrics
from quiltfn.ports import Pools, WarmStock
from quiltfn.ports.fleet import Nodes
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.tenants.admission import Admission


class SystemServices(RouteServices, Protocol):
    """The services for the routes about the server itself."""

    admission: Admission
    health: Health
    pools: Pools
    runtimes: Runtimes
    fleet: FleetNode


class MetricServices(RouteServices, Protocol):
    """The services that metrics are read from when they are requested."""

    journal: SpoolJournal
    nodes: Nodes
    pools: Pools
    tenant_images: TenantImages
    warm_stock: WarmStock
    work: Work


async def get_liveness(_context: RequestContext[SystemServices]) -> Response:
    """Check that the server responds. Nothing else is checked."""
    return json_response(wire.Liveness())


async def get_readiness(context: RequestContext[SystemServices]) -> Response:
    """Check that the server accepts invocations, for load balancers. It fails while the server
    stops or is drained, but not while the database is unreachable.
    """
    health = context.services.health
    if not health.takes_calls:
        raise ShuttingDown(health.reasons.refuses(), retry_after=5)
    return json_response(wire.Liveness())


async def get_health(context: RequestContext[SystemServices]) -> Response:
    """Show whether the server is ready, the result of each check, and the protections in force. A
    server that can't check credentials tells everyone that it isn't ready and why (`credentials`),
    without checks and protections.
    """
    report = await context.services.health.report()
    return _json_or_markdown(context, Texts.of(report, health_text))


def get_health_unverified(
    context: RequestContext[SystemServices], error: StoreUnavailable
) -> Response:
    """Respond that the server is not ready, and why, while it cannot check credentials."""
    report = context.services.health.unverified_report(str(error))
    return _json_or_markdown(context, Texts.of(report, health_text))


async def get_elasticity_health(context: RequestContext[SystemServices]) -> Response:
    """Show the server's health; pool targets can be set while it is ready."""
    return await get_health(context)


async def get_help(context: RequestContext[SystemServices]) -> Response:
    """Show every route with its rules, and debugging help."""
    return _json_or_markdown(context, context.help.functions_help, is_shared=True)


async def list_examples(context: RequestContext[SystemServices]) -> Response:
    """Show example requests that work as printed."""
    return _json_or_markdown(context, context.help.functions_examples, is_shared=True)


async def get_elasticity_help(context: RequestContext[SystemServices]) -> Response:
    """Show the routes for pool targets with their rules."""
    return _json_or_markdown(context, context.help.elasticity_help, is_shared=True)


async def list_elasticity_examples(context: RequestContext[SystemServices]) -> Response:
    """Show example requests that set pool targets."""
    return _json_or_markdown(context, context.help.elasticity_examples, is_shared=True)


async def get_openapi_document(context: RequestContext[SystemServices]) -> Response:
    """Show the OpenAPI 3.1 document of this server."""
    return Response(headers=[("content-type", JSON)], body=context.help.openapi, is_shared=True)


async def get_system_info(context: RequestContext[SystemServices]) -> Response:
    """Show the server's version, node, protections and limits."""
    machine, services = context.services.health.machine, context.services
    return json_response(
        wire.SystemInfo(
            version=__version__,
            node_id=machine.node_id,
            cgroup_mode=machine.cgroup_mode,
            oci_runtime=machine.oci_runtime,
            durability=services.health.durability,
            protections=machine.protections,
            interpreters=machine.interpreters,
            limits=limits_of(services, context.tenant_id),
            memory={
                "budget_mib": services.pools.memory.budget_mib,
                "held_mib": round(services.pools.memory.held_mib, 1),
            },
            tenant_id=context.tenant_id,
            scope=context.caller.scope,
            started_at=services.health.started_at,
            architecture=platform.machine(),
            libc=libc(),
        )
    )


def libc() -> str | None:
    """The C library of this machine and its version, such as glibc 2.41. None if unknown."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (OSError, ValueError):
        return None


async def get_whoami(context: RequestContext[SystemServices]) -> Response:
    """Show the caller's credential, its scope and expiry, and the server's features. On a server
    that needs no credential, it works without one.
    """
    caller, services = context.caller, context.services
    machine = services.health.machine
    isolation = () if machine.no_gvisor else (Isolation.GVISOR.value,)
    ends = [one for one in (caller.expires_at, caller.token_ends_at) if one is not None]
    fleet = () if services.fleet.is_alone else ("fleet",)
    docs = ("docs",) if web.files(web.DOCUMENTATION) else ()
    kinds = (*(one.value for one in EVERYWHERE), *machine.interpreters)
    return json_response(
        wire.Whoami(
            tenant_id=caller.tenant_id,
            scope=caller.scope,
            credential=caller.credential,
            expires_at=min(ends, default=None),
            needs_credential=not services.access.is_open,
            version=__version__,
            node_id=machine.node_id,
            offers=sorted({*context.help.parts, *kinds, *isolation, *fleet, *docs}),
        )
    )


async def get_doctor_report(context: RequestContext[SystemServices]) -> Response:
    """Show the system checks of `quiltfn doctor` that the running server can do without root, and
    the protections in force.
    """
    health = context.services.health
    found = [
        wire.Finding(
            name=one.name, level=one.level, sentence=one.sentence, advice=one.advice or None
        )
        for one in await health.findings()
    ]
    return json_response(wire.DoctorReport(findings=found, protections=health.machine.protections))


def field_limits(services: SystemServices) -> dict[str, float]:
    """The fields whose maximum depends on this server, with that maximum."""
    machine = services.health.machine
    return {
        "memory_limit_mb": machine.memory_max_mib,
        "cpu_limit_percent": 100 * machine.cores,
        "timeout_seconds": services.limits.timeout_max_s,
    }


def limits_of(services: SystemServices, tenant_id: str) -> dict[str, float]:
    """All limits of this server for the tenant."""
    own = services.admission.limits_of(tenant_id)
    return {
        **field_limits(services),
        "body_bytes": services.limits.body_max,
        "invoke_body_bytes": services.limits.invoke_body_max,
        "stdout_bytes": services.limits.stdout_max,
        "stderr_bytes": services.limits.stderr_max,
        "image_upload_bytes": services.limits.image_max,
        "image_bytes": services.limits.image_unpacked_max,
        "image_files": services.limits.image_files_max,
        "tenant_calls_in_flight": own.calls_in_flight,
        "tenant_streams": services.budgets.streams.of_tenant,
        "tenant_functions": own.functions,
        "tenant_instances": services.pools.tenant_instances,
        "tenant_runtimes": services.runtimes.rules.runtimes,
        "tenant_image_bytes": own.image_bytes,
        "tenant_calls_per_second": own.calls_per_second,
        "tenant_gb_seconds_per_day": own.gb_seconds_per_day,
    }


async def get_metrics(context: RequestContext[MetricServices]) -> Response:
    """Show the server's metrics in Prometheus' text format."""
    await refresh_metrics(context.services)
    return text_response(*await asyncio.to_thread(metrics.text))


async def refresh_metrics(services: MetricServices) -> None:
    """Update the metrics that show current values."""
    metrics.show_pools(services.pools.counts(one) for one in services.pools.occupied())
    metrics.show_waiting(services.pools.waiting())
    memory = services.pools.memory
    metrics.show_memory(memory.held_mib, memory.budget_mib)
    metrics.show_prewarmed(services.warm_stock.count())
    metrics.show_images(services.tenant_images.bytes_in_all())
    metrics.show_store(services.journal.problem is None)
    services.nodes.show()
    with contextlib.suppress(StoreUnavailable):  # the queue metrics keep their last values
        await services.work.show_queues()


def _json_or_markdown(
    context: RequestContext[SystemServices], texts: Texts, *, is_shared: bool = False
) -> Response:
    """JSON, or Markdown if the caller requests it. `is_shared`: see `Response`."""
    wanted = context.query.get("format")
    if wanted is not None:
        parse.one_of(wanted, "format", ["json", "markdown"], "markdown")
    kind, body = JSON, texts.json
    if wanted == "markdown" or (
        wanted is None and "text/markdown" in context.headers.get("accept", "")
    ):
        kind, body = "text/markdown; charset=utf-8", texts.markdown
    return Response(headers=[("content-type", kind)], body=body, is_shared=is_shared)


# --- the routes ---

FORMAT = Parameter(name="format", about="markdown or json", schema={"enum": ["json", "markdown"]})


def document(
    path: str,
    handler: Handler[SystemServices],
    answer: type,
    unverified: Unverified[SystemServices] | None = None,
) -> Route[SystemServices]:
    return Route(
        "GET",
        path,
        handler,
        scope=READ,
        answer=answer,
        parameters=(FORMAT,),
        texts=("text/markdown",),
        unverified=unverified,
    )


ROUTES: list[Route[Services]] = [
    Route("GET", "/health", get_liveness, scope=None, answer=wire.Liveness),
    Route(
        "GET",
        "/health/ready",
        get_readiness,
        scope=None,
        answer=wire.Liveness,
        codes=("SHUTTING_DOWN",),
    ),
    document("/api/functions/health", get_health, wire.Health, get_health_unverified),
    document("/api/functions/help", get_help, wire.Help),
    document("/api/functions/examples", list_examples, wire.ExampleList),
    document("/api/elasticity/health", get_elasticity_health, wire.Health, get_health_unverified),
    document("/api/elasticity/help", get_elasticity_help, wire.Help),
    document("/api/elasticity/examples", list_elasticity_examples, wire.ExampleList),
    Route("GET", "/api/system/info", get_system_info, scope=READ, answer=wire.SystemInfo),
    Route("GET", "/api/system/doctor", get_doctor_report, scope=OPERATOR, answer=wire.DoctorReport),
    Route("GET", "/api/whoami", get_whoami, scope=READ, answer=wire.Whoami),
    Route("GET", "/metrics", get_metrics, scope=OPERATOR, answer=str, texts=("text/plain",)),
    Route("GET", "/openapi.json", get_openapi_document, scope=None, answer=dict),
]
