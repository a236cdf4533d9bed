"""HTML pages of searches and sensitivities, while they go on and when they are done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunegraph.ops.cost import cost
from prunegraph.report import curves, html
from prunegraph.report.live import LivePage, Standing
from prunegraph.report.study_sections import search_content, sensitivity_content

if TYPE_CHECKING:
    from prunegraph.graph.model import Graph
    from prunegraph.tuning.search import SearchProgress
    from prunegraph.tuning.sensitivity import Sensitivity


@dataclass(frozen=True)
class StudyPage:
    """The page of a search or a sensitivity of one model; its methods are what these are watched by.

    Args:
        page: what writes it.
        graph: the model.
        command: the command line, quoted for a shell.
    """

    page: LivePage
    graph: Graph
    command: str | None

    @classmethod
    def at(cls, path: str, graph: Graph, command: str | None) -> StudyPage:
        """A page at a path. Raises MissingExtraError where the extra `report` is not installed."""
        html.require()
        return cls(LivePage(Path(path)), graph, command)

    def search(self, progress: SearchProgress) -> None:
        """Show a search that goes on."""
        self.page.show(partial(self._candidates, progress))

    def sensitivity(self, so_far: Sensitivity) -> None:
        """Show a sensitivity that goes on."""
        self.page.show(partial(self._curves, so_far))

    def finished(self, result: Sensitivity) -> None:
        """Show a sensitivity that is done. Raises ModelError where the page cannot be written."""
        self.page.finish(partial(self._curves, result))

    def _candidates(self, progress: SearchProgress, standing: Standing) -> str:
        content = search_content(progress, cost(self.graph))
        return self._render("Search", standing, sensitivity=None, **content)

    def _curves(self, result: Sensitivity, standing: Standing) -> str:
        content = curves.parse(result.to_json())
        return self._render(
            "Sensitivity", standing, search=None, **sensitivity_content(content)
        )

    def _render(self, kind: str, standing: Standing, **content: Any) -> str:
        return html.filled(
            "studied.html",
            partial(html.layer_path, self.graph),
            kind=kind,
            name=Path(self.graph.source).name,
            graph=self.graph,
            command=self.command,
            standing=standing,
            plan_shares=None,
            **content,
        )
