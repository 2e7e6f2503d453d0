"""Everything that the API takes, for the one place that makes it (`server/platform.py`)."""

from quiltfn.api.deliveries import DeliveryServices
from quiltfn.api.elasticity import ElasticityServices
from quiltfn.api.events import EventServices
from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.function_list import FunctionListServices
from quiltfn.api.functions import FunctionServices
from quiltfn.api.idempotency import Idempotency
from quiltfn.api.instances import InstanceServices
from quiltfn.api.invocation_list import CallListServices
from quiltfn.api.logs import LogServices
from quiltfn.api.nodes import NodeServices
from quiltfn.api.quotas import QuotaServices
from quiltfn.api.route import RouteServices
from quiltfn.api.runtimes import RuntimeServices
from quiltfn.api.schedules import ScheduleServices
from quiltfn.api.stats import StatsServices
from quiltfn.api.system import AuditServices, KeyServices, MetricServices, SystemServices
from quiltfn.api.tenants import TenantServices
from quiltfn.api.url_calls import UrlCallServices
from quiltfn.api.version_files import VersionFileServices
from quiltfn.api.web import WebServices
from quiltfn.host.health import Health
from quiltfn.observe.trace import Tracer
from quiltfn.ports import Audit, Clock


class PipelineServices(RouteServices):
    """What is done for every request, whatever its route."""

    audit: Audit
    clock: Clock
    health: Health
    idempotency: Idempotency
    tracer: Tracer | None = None
    fleet: FleetNode | None = None


class Services(
    PipelineServices,
    UrlCallServices,
    FunctionServices,
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
    """The services of a platform. A handler sees the part that its module names."""
