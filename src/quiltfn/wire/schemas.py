"""All schemas of the API, by the names that the modules of this package export."""

from quiltfn.wire.aliases import *
from quiltfn.wire.deliveries import *
from quiltfn.wire.functions import *
from quiltfn.wire.invocations import *
from quiltfn.wire.keys import *
from quiltfn.wire.runtimes import *
from quiltfn.wire.schedules import *
from quiltfn.wire.stats import *
from quiltfn.wire.system import *
from quiltfn.wire.urls import *
from quiltfn.wire.work import *
