"""What commands tell of a pruned model: tables and lines, and the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prunegraph.cli.console import command_line
from prunegraph.errors import PrunegraphError

if TYPE_CHECKING:
    from rich.console import Console

    from prunegraph.graph.model import Graph
    from prunegraph.pipeline import PruneResult
    from prunegraph.proof.result import Proof
    from prunegraph.report.studied import StudyPage
    from prunegraph.report.written import WrittenReport
    from prunegraph.rewriting.decompose import DecomposeResult
    from prunegraph.runtime.data import Data


def report_writer(
    report: str | None, sensitivity: str | None
) -> Callable[[Console, PruneResult, Data | None], None]:
    """Say what writes the report of a result, if there is to be one; what it needs is checked now, before the work."""
    from prunegraph.report import curves, html

    if sensitivity and not report:
        raise click.UsageError("--sensitivity is shown in the report: give --report FILE")
    check_report(report)
    if not report:
        return lambda where, result, samples: None
    shown = curves.read(sensitivity) if sensitivity else None

    def write(where: Console, result: PruneResult, samples: Data | None) -> None:
        html.write(
            result,
            report,
            command=command_line(),
            sensitivity=shown,
            latency=result.latency,
            samples=samples,
        )
        where.print(f"wrote {report}")

    return write


def file_sizes(model: str, out: str) -> tuple[int, int] | None:
    """Bytes of both files, None where the model was not read from one (or from an empty one)."""
    if not Path(model).is_file() or not Path(model).stat().st_size:
        return None
    return Path(model).stat().st_size, Path(out).stat().st_size


def write_report(
    where: Console, path: str | None, page: Callable[[], WrittenReport]
) -> None:
    """Write the page of a model that was written, if there is to be one."""
    if path is None:
        return
    from prunegraph.report import written

    written.write(page(), path)
    where.print(f"wrote {path}")


def check_report(report: str | None) -> None:
    """Raise before the work what a report that cannot be written would raise after it."""
    from prunegraph import api
    from prunegraph.report import html

    if report:
        html.require()
        api.check_output(report)


@contextmanager
def watching(report: str | None, graph: Graph) -> Iterator[StudyPage | None]:
    """The page of a study while it goes on, if there is to be one; it says what stopped a study that fails."""
    if not report:
        yield None
        return
    from prunegraph.report.studied import StudyPage

    page = StudyPage.at(report, graph, command_line())
    with page.page.watching():
        yield page


def show_result(
    where: Console,
    result: PruneResult,
    samples: Data | None,
    out: str,
    plan: str | None = None,
) -> None:
    """Say what was done, as a table and lines; `samples` are the user's data, `plan` is where the plan went."""
    from prunegraph.decoders.vocabulary import map_path
    from prunegraph.operators import is_batch_normalization
    from prunegraph.report import tables
    from prunegraph.report.text import interface_lines, precision_line, rotated_line

    where.print(tables.result_table(result))
    if result.plan.is_empty and not result.left_out and result.vocabulary is None:
        where.print(_nothing_removed(result))
    if (note := result.plan.provenance.get("latency", {}).get("note")) is not None:
        where.print(f"latency: {note}")
    if (binding := result.plan.provenance.get("binding")) is not None:
        where.print(f"all bounds are met; the one that binds: {binding}")
    if result.plan.provenance.get("curvature"):
        where.print(
            "errors of layers count by what they do at the outputs (gradients; --curvature never: without)"
        )
    if (measured := result.plan.provenance.get("damage")) is not None:
        where.print(
            f"shared among groups by the least damage measured at the outputs: {damages(measured)}"
        )
    if (repaired := result.plan.provenance.get("repaired")) is not None:
        where.print(f"the error that is left behind the repair: {damages(repaired)}")
    if result.decomposed is not None:
        where.print(low_rank(result.decomposed, result.factors))
    if result.rounding is not None:
        where.print(str(result.rounding))
    if result.left_out:
        where.print(
            f"left whole, because the proof failed with them: groups {', '.join(result.left_out)}; the rest is proved. "
            + result.blame
        )
    where.print(
        f"proof: {result.proof}" if result.proof else "proof: skipped (--no-verify)"
    )
    if result.repair != "none":
        base = (
            f"{samples.fit(result.original).samples} samples"
            if samples is not None
            else "the model's BatchNormalization statistics"
        )
        where.print(f"then repaired on {base}: {result.repair}")
        if samples is not None and (line := _masked(result, samples)):
            where.print(line)
    elif samples is None and any(
        is_batch_normalization(node) for node in result.original.nodes
    ):
        where.print(
            "not repaired: --data refits the weights; without data --repair bn brings back much of it"
        )
    if result.quantized is not None:
        from prunegraph.report.quantized import outcome

        where.print(outcome(result.quantized, result.original))
    if result.precision is not None:
        where.print(precision_line(result.precision))
    if result.vocabulary is not None:
        kept, size = len(result.vocabulary.kept), result.vocabulary.size
        where.print(
            f"vocabulary: {kept} of {size} tokens stay, map of ids: {map_path(out)}"
        )
    if result.rotated is not None:
        where.print(rotated_line(result.rotated))
    if result.plan.interface:
        where.print("changed: " + "; ".join(interface_lines(result.plan)))
    if result.configured is not None:
        for line in result.configured.notes:
            where.print(line)
        for path in result.configured.paths:
            where.print(f"wrote {path}")
    where.print(f"wrote {out}")
    if plan is not None:
        where.print(f"wrote {plan}")


def _masked(result: PruneResult, samples: Data) -> str:
    """Say for how many layers a mask told which rows count; "" where there is no mask."""
    from prunegraph.runtime.row_mask import find_mask

    mask = find_mask(result.original, samples.mask_input)
    if mask is None:
        return ""
    read = [bool(mask.of(node.inputs[0])) for node in result.original.layers]
    return f"where {mask.input!r} is 0, data did not count: in {sum(read)} of {len(read)} layers"


def _nothing_removed(result: PruneResult) -> str:
    """Why a model is as wide as before, where it may be a surprise."""
    if not result.coupling.groups:
        return "nothing was removed: there is no group of channels; `prunegraph inspect` says what fixes them"
    if result.decomposed is not None and result.decomposed.layers:
        return "no channels were removed: layers of low rank do less damage (--allocation chooses channels alone)"
    if _is_met(result):
        return "nothing was removed: the model is within the budget as it is"
    multiple = result.plan.provenance.get("round_to", 1)
    if multiple in (1, "auto"):
        return "nothing was removed"
    return f"nothing was removed: kept channels are a multiple of {multiple}; --round-to 1 cuts to any width"


def _is_met(result: PruneResult) -> bool:
    """Tell whether the original meets the bounds that were asked for, all of which are counted."""
    from prunegraph.selection.budget import Budget, unmet

    asked = result.plan.provenance.get("budget") or {}
    try:
        budget = Budget(**asked)
    except (PrunegraphError, TypeError):
        return False
    counted = budget.kinds and budget.counted == budget.kinds
    return bool(counted) and unmet(budget, result.before, result.before) is None


def low_rank(decomposed: DecomposeResult, factors: Proof | None) -> str:
    """Which layers are several of low rank now, and what their proof showed."""
    ranks = ", ".join(
        f"{row.name} ({row.method} {' x '.join(map(str, row.ranks))})"
        for row in decomposed.layers
    )
    shown = f"; each computes the product of its factors: {factors}" if factors else ""
    return f"{len(decomposed.layers)} layers of low rank: {ranks}{shown}"


def damages(measured: Mapping[str, float]) -> str:
    """Damage by allocation, the least first."""
    ordered = sorted(measured.items(), key=lambda each: each[1])
    return ", ".join(f"{name} {value:.3g}" for name, value in ordered)
