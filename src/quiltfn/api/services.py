"""All services that the API needs; `server/platform.py` creates them. Each module of routes has a
protocol with the services of its handlers. mypy compares the protocols with `Services` where the
routes are listed (`api/routes/table.py`).
"""

from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.http.budgets import Budgets
from quiltfn.api.http.idempotency import Idempotency
from quiltfn.api.http.route import ApiLimits
from quiltfn.base.immutable import ByKeywords
from quiltfn.calls.deliveries import Deliveries
from quiltfn.calls.events import Events
from quiltfn.calls.invoke import Invoker
from quiltfn.calls.schedules import Schedules
from quiltfn.calls.work import Work
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.catalog import Catalog
from quiltfn.functions.elasticity import Elasticity
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.functions.runtimes import Runtimes
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.functions.urls import Urls
from quiltfn.host.health import Health
from quiltfn.observe.trace import Tracer
from quiltfn.ports import Clock, Pools, WarmStock
from quiltfn.ports.fleet import Nodes
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.store.calls.stats import SqlStats
from quiltfn.store.tenants.audit import SqlAudit
from quiltfn.store.tenants.keys import SqlKeys
from quiltfn.tenants.access import Access
from quiltfn.tenants.admission import Admission
from quiltfn.tenants.quotas import Quotas


class Services(ByKeywords):
    """The services of a platform."""

    access: Access
    admission: Admission
    aliases: Aliases
    audit: SqlAudit
    budgets: Budgets
    catalog: Catalog
    clock: Clock
    deliveries: Deliveries
    elasticity: Elasticity
    events: Events
    fleet: FleetNode
    health: Health
    idempotency: Idempotency
    invoker: Invoker
    journal: SpoolJournal
    keys: SqlKeys
    lifecycle: Lifecycle
    limits: ApiLimits
    nodes: Nodes
    pools: Pools
    quotas: Quotas
    runtimes: Runtimes
    schedules: Schedules
    stats: SqlStats
    tenant_images: TenantImages
    tracer: Tracer | None = None
    urls: Urls
    warm_stock: WarmStock
    work: Work
