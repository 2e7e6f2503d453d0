"""Negative control: runs `quiltfn serve` with network rules that refuse nothing.

With `trusting`, the server is made to believe that the rules work; with `examining`, it has to
notice that they don't. With `missing`, there are rules, but slirp4netns is missing.
"""

import sys
from collections.abc import Iterable

from quiltfn.launcher import egress, egress_rules
from quiltfn.operator import serve

OPEN = """table inet quiltfn {
  counter blocked {
  }
}
"""


def no_rules(_host: Iterable[str], *, resolvers: Iterable[str]) -> str:
    del resolvers
    return OPEN


def trusting(_egress: egress.Egress, _proxy: egress.EgressProxy) -> str:
    return "nothing was examined"


if __name__ == "__main__":
    if sys.argv[1] == "missing":
        egress.SLIRP = "/usr/bin/no-slirp4netns"
    else:
        egress_rules.ruleset = no_rules  # type: ignore[assignment]
    if sys.argv[1] == "trusting":
        egress.Egress.examine = trusting  # type: ignore[assignment, method-assign]
    sys.exit(serve.main(sys.argv[3:]))
