"""A driver with a two-node cluster of its own that loses one node in the middle of a run.

Run as `python -m tests.end_to_end.ray_nodes RECIPE OUT UNITS HOW`: after so many units the second node is removed at
one blow (`removed`), or the process that speaks for it is killed and nobody says so (`silent`). The exit status is
that of the run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.execute.ray_driver import cluster_of, raylet


class Remover:
    """An observer that takes the node away once so many units are done."""

    def __init__(self, cluster: Any, node: Any, units: int, how: str) -> None:
        """Wait for `units` of them."""
        self._cluster, self._node, self._left, self._how = cluster, node, units, how

    def event(self, kind: str, **facts: Any) -> None:
        """Count units."""
        self._left -= kind == "unit"
        if kind == "unit" and not self._left:
            if self._how == "silent":
                raylet(self._node).kill()
            else:
                self._cluster.remove_node(self._node, allow_graceful=False)
            sys.stdout.write("lost\n")


def main(recipe: str, out: Path, units: int, how: str) -> int:
    """Run the recipe while a node is lost; return the exit status."""
    import pipeline.execute.workers as pool
    from jobs import wiring
    from pipeline.adapters.stores import LocalStore
    from pipeline.domain.errors import FacemintError
    from pipeline.execute.run import generate

    pool.CLUSTER_LOOK_S = 1.0
    cluster, nodes = cluster_of(2)
    try:
        loaded = wiring.load_recipe(recipe, ["compute.executor=ray", f"compute.address={cluster.address}"])
        generate(wiring.session_on(loaded, LocalStore(out), Remover(cluster, nodes[1], units, how)))
    except FacemintError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    finally:
        cluster.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
