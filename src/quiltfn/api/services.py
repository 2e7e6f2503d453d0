"""All services that the API needs; `server/platform.py` creates them."""

from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.http.idempotency import Idempotency
from quiltfn.api.http.route import RouteServices
from quiltfn.api.routes.async_policies import PolicyServices
from quiltfn.api.routes.audit_log import AuditServices
from quiltfn.api.routes.deliveries import DeliveryServices
from quiltfn.api.routes.elasticity import ElasticityServices
from quiltfn.api.routes.events import EventServices
from quiltfn.api.routes.function_list import FunctionListServices
from quiltfn.api.routes.instances import InstanceServices
from quiltfn.api.routes.invocation_list import CallListServices
from quiltfn.api.routes.invocations import InvocationServices
from quiltfn.api.routes.keys import KeyServices
from quiltfn.api.routes.logs import LogServices
from quiltfn.api.routes.nodes import NodeServices
from quiltfn.api.routes.pools import PoolCountServices
from quiltfn.api.routes.queues import QueueServices
from quiltfn.api.routes.quotas import QuotaServices
from quiltfn.api.routes.runtimes import RuntimeServices
from quiltfn.api.routes.schedules import ScheduleServices
from quiltfn.api.routes.stats import StatsServices
from quiltfn.api.routes.system import MetricServices, SystemServices
from quiltfn.api.routes.tenants import TenantServices
from quiltfn.api.routes.url_calls import UrlCallServices
from quiltfn.api.routes.version_files import VersionFileServices
from quiltfn.api.routes.versions import VersionServices
from quiltfn.api.routes.web import WebServices
from quiltfn.host.health import Health
from quiltfn.observe.trace import Tracer
from quiltfn.ports import Clock
from quiltfn.store.tenants.audit import SqlAudit


class PipelineServices(RouteServices):
    """The services that every request needs, whatever its route."""

    audit: SqlAudit
    clock: Clock
    health: Health
    idempotency: Idempotency
    tracer: Tracer | None = None
    fleet: FleetNode


class Services(
    PipelineServices,
    UrlCallServices,
    InvocationServices,
    VersionServices,
    PolicyServices,
    QueueServices,
    PoolCountServices,
    FunctionListServices,
    CallListServices,
    LogServices,
    EventServices,
    DeliveryServices,
    ElasticityServices,
    RuntimeServices,
    VersionFileServices,
    ScheduleServices,
    StatsServices,
    QuotaServices,
    TenantServices,
    NodeServices,
    SystemServices,
    InstanceServices,
    MetricServices,
    KeyServices,
    AuditServices,
    WebServices,
):
    """The services of a platform. Each route module declares the part that its handlers use."""
