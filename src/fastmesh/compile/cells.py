"""Which endpoint and which cluster has which cell of shared memory, stable over generations: what is learnt
lives there. Knows tags and ids, nothing of what a cell holds.
"""

from __future__ import annotations

from fastmesh._core.shm import clusters
from fastmesh._core.shm.pack import fnv1a
from fastmesh._core.shm.segment import CL_CELLS, EP_CELLS
from fastmesh.compile.packing import refuse

TYPE_CHECKING = False  # of typing: see tables
if TYPE_CHECKING:
    from fastmesh._core.shm.segment import Segment


class _Places:
    """Numbers below `most`, each given to one owner until it is given back."""

    def __init__(self, owners: dict[int, int], most: int) -> None:
        self.owners = owners
        self.most = most
        # Places above `fresh` have never been taken; `free` has those given back. A list of them all would
        # cost a sidecar a megabyte.
        used = set(owners.values())
        self.fresh = max(used, default=-1) + 1
        self.free = [place for place in range(self.fresh - 1, -1, -1) if place not in used]

    def take(self, owner: int, what: str, path: str) -> int:
        if self.free:
            place = self.free.pop()
        elif self.fresh < self.most:
            place = self.fresh
            self.fresh += 1
        else:
            raise refuse(path, f"more than {self.most} {what}")
        self.owners[owner] = place
        return place

    def give_back(self, owner: int) -> None:
        self.free.append(self.owners.pop(owner))


class CellMap:
    """The cells of a proxy's endpoints, by cluster and address, and of its clusters, by id.

    Cells belong to the segment: a new CellMap over the same one (the agent was restarted) goes on with what
    is there. Publish what pack() gave before the next pack(): a cell is free again once the published
    generation, which every worker then uses, does not name it and nothing is left on it.
    """

    def __init__(self, segment: Segment | None = None) -> None:
        self.segment = segment
        self._endpoints = _Places({} if segment is None else segment.cell_tags(), EP_CELLS)
        self._clusters = _Places({} if segment is None else clusters.owners(segment), CL_CELLS)

    @property
    def cells(self) -> dict[int, int]:
        """Tag of an endpoint -> its cell."""
        return self._endpoints.owners

    @property
    def clusters(self) -> dict[int, int]:
        """Id of a cluster -> its cell."""
        return self._clusters.owners

    def collect(self) -> None:
        """Free the cells of what is gone and quiet."""
        segment = self.segment
        if segment is None or segment.oldest != segment.generation:
            return
        named = segment.endpoint_tags()
        for tag, cell in list(self.cells.items()):
            if tag not in named and segment.cell_quiet(cell):
                segment.cell_free(cell)
                self._endpoints.give_back(tag)
        named = clusters.published_ids(segment)
        for owner, cell in list(self.clusters.items()):
            if owner not in named and clusters.quiet(segment, cell):
                clusters.release(segment, cell)
                self._clusters.give_back(owner)

    def take(self, cluster: str, address: str, path: str) -> tuple[int, int]:
        """(cell, tag) of an endpoint."""
        tag = fnv1a(f"{cluster}\0{address}".encode())
        cell = self.cells.get(tag)
        if cell is None:
            cell = self._endpoints.take(tag, "endpoints", path)
            if self.segment is not None:
                self.segment.cell_take(cell, tag)
        return cell, tag

    def cluster(self, name: str, path: str) -> int:
        """The cell of a cluster."""
        owner = fnv1a(name.encode())
        cell = self.clusters.get(owner)
        if cell is None:
            cell = self._clusters.take(owner, "clusters", path)
            if self.segment is not None:
                clusters.take(self.segment, cell, owner)
        return cell
