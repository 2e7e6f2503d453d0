"""The groups of methods that both clients have, such as `client.functions`."""

import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Self

from quiltfn.sdk.methods import AnyClient

if TYPE_CHECKING:
    from quiltfn.sdk.elasticity import Elasticity
    from quiltfn.sdk.functions import Functions
    from quiltfn.sdk.invocations import Invocations
    from quiltfn.sdk.keys import Keys
    from quiltfn.sdk.nodes import Nodes
    from quiltfn.sdk.quotas import Quotas
    from quiltfn.sdk.runtimes import Runtimes
    from quiltfn.sdk.schedules import Schedules
    from quiltfn.sdk.system import System
    from quiltfn.sdk.tenants import Tenants


class Groups(Generic[AnyClient]):
    """Each group has a module with its name, loaded at the first use of the group, since a command
    uses only one or two.
    """

    functions: "Functions[AnyClient]"
    invocations: "Invocations[AnyClient]"
    elasticity: "Elasticity[AnyClient]"
    runtimes: "Runtimes[AnyClient]"
    schedules: "Schedules[AnyClient]"
    keys: "Keys[AnyClient]"
    tenants: "Tenants[AnyClient]"
    quotas: "Quotas[AnyClient]"
    nodes: "Nodes[AnyClient]"
    system: "System[AnyClient]"
    _tenant: str | None = None

    if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept any attribute

        def __getattr__(self, name: str) -> Any:
            if name not in NAMES:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            module = import_module(f"quiltfn.sdk.{name}")
            group = getattr(module, name.capitalize())(self)
            setattr(self, name, group)
            return group

    def _for_tenant(self, tenant: str) -> Self:
        """A copy that acts in another tenant, with groups of its own."""
        other = copy.copy(self)
        for name in NAMES:
            vars(other).pop(name, None)
        other._tenant = tenant
        return other


NAMES = tuple(name for name in Groups.__annotations__ if not name.startswith("_"))
