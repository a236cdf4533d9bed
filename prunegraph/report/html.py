"""The report: one HTML page without scripts that loads nothing.

Templates escape whatever they are given (Jinja's autoescape), and the page forbids scripts and requests
to the browser (Content-Security-Policy): names in a model file are not trusted.
"""

from __future__ import annotations

import base64
import datetime
import importlib
import importlib.util
import json
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunegraph import __version__
from prunegraph.errors import DataError, MissingExtraError
from prunegraph.graph.layer_names import shown
from prunegraph.graph.onnx_io import write_whole
from prunegraph.report import charts, curves
from prunegraph.report.examples import examples
from prunegraph.report.layer_times import columns, roofline, timed_layers
from prunegraph.report.layers import layer_rows
from prunegraph.report.network.notes import picture
from prunegraph.report.remarks import group_rows, remarks
from prunegraph.report.study_sections import search_content, sensitivity_content
from prunegraph.report.tables import amount, share
from prunegraph.report.text import clean, count_of, exact, factor, interface_lines

if TYPE_CHECKING:
    import markupsafe

    from prunegraph.graph.model import Graph
    from prunegraph.measuring.latency import Latency
    from prunegraph.ops.cost import Cost
    from prunegraph.pipeline import PruneResult
    from prunegraph.quantization.quantize import QuantizeResult
    from prunegraph.report.curves import SensitivityCurves
    from prunegraph.runtime.data import Data
    from prunegraph.selection.plan import Plan
    from prunegraph.tuning.search import SearchTrace

#: Packages of the extra `report`, as they are imported.
PACKAGES = ("jinja2", "vl_convert")

#: Above so many layers the widths are also shown at a glance.
GLANCE = 30

#: Characters of a plan that a page holds at most: matrices of a rotation may have many more.
PLAN = 500_000

#: What the criterion's and the budget's settings are called on the page.
SETTINGS = {
    "algorithm": "Criterion",
    "allocation": "Allocation",
    "budget": "Budget",
    "round_to": "Kept channels a multiple of",
    "min_channels": "Channels that stay in every group",
    "keep": "Layers kept whole",
    "ratio_for": "Own ratios",
    "seed": "Seed",
    "attention": "Unit in attention",
    "same_width": "All layers alike",
    "allow_io": "Inputs and outputs that may change",
}


def require() -> None:
    """Raise MissingExtraError where a package of the extra is not installed."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError("an HTML report", name, "report")


def write(
    result: PruneResult,
    path: str | os.PathLike[str],
    *,
    command: str | None = None,
    sensitivity: Any = None,
    latency: Latency | None = None,
    samples: Data | None = None,
    metric: str | None = None,
    search: SearchTrace | None = None,
) -> None:
    """Write the report of a pruned model.

    Args:
        result: what `prunegraph.prune` returned.
        path: where the page goes; it appears whole or not at all.
        command: the command line that repeats the work, quoted for a shell.
        sensitivity: curves in the form of `prunegraph.report.curves.parse`.
        latency: of the original and the pruned model.
        samples: the user's data; where they are images, the first ones are shown with what both models make of them.
        metric: by name, where one was asked for: that of a detector says how its boxes are read.
        search: the way to the plan, where it was searched for.

    Raises:
        MissingExtraError: the packages of the extra `report` are not installed.
        DataError: the sensitivity has another form, or is of another model.
        ModelError: the page cannot be written.
    """
    page = render(
        result,
        command=command,
        sensitivity=sensitivity,
        latency=latency,
        samples=samples,
        metric=metric,
        search=search,
    )
    write_whole(Path(path), [page.encode()])


def render(
    result: PruneResult,
    *,
    command: str | None = None,
    sensitivity: Any = None,
    latency: Latency | None = None,
    samples: Data | None = None,
    metric: str | None = None,
    search: SearchTrace | None = None,
) -> str:
    """The page as text; see `write`."""
    matches = curves.parse(sensitivity) if sensitivity is not None else None
    if matches is not None:
        _check_groups(result, matches)
    return filled(
        "page.html",
        partial(layer_path, result.original),
        result=result,
        coupling=result.coupling,
        kind="Pruning report",
        name=Path(result.original.source).name,
        command=command,
        totals=cards(result.before, result.after, latency),
        **_plan(result.plan),
        settings=settings(result.plan),
        examples=examples(result, samples, metric),
        **_layers(result),
        show_kept=True,
        plan_shares=_plan_shares(result),
        **sensitivity_content(matches),
        **search_content(search, result.before, search.best if search else None),
    )


def filled(template: str, path: Callable[[str], Any] = clean, **content: Any) -> str:
    """A page of this folder's templates as text, with the date and the versions of packages.

    Raises:
        MissingExtraError: the packages of the extra `report` are not installed.
    """
    require()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=True,
        finalize=clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(exact=exact, factor=factor, path=path, count_of=count_of)
    environment.globals.update(
        share=share,
        exact=exact,
        short=_short,
        curve_color=charts.curve_color,
        score=partial(_number, form="{:.3g}"),
        decibels=partial(_number, form="{:.1f}"),
        milliseconds="{:.3g}".format,
    )
    return environment.get_template(template).render(
        date=datetime.datetime.now(datetime.UTC), versions=_versions(), **content
    )


def _check_groups(result: PruneResult, matches: SensitivityCurves) -> None:
    known = {group.id for group in result.coupling.groups} | {
        *result.coupling.branches_by_id
    }
    for curve in matches.curves:
        if curve.group not in known:
            raise DataError(
                f"sensitivity: group {curve.group!r} is not in {result.original.source}: another model?"
            )


def _plan_shares(result: PruneResult) -> dict[str, str]:
    """The share of every group's channels that the plan removes, as text."""
    return {
        group.id: share(len(result.plan.remove.get(group.id, ())), group.channels)
        for group in result.coupling.groups
    }


def _layers(result: PruneResult) -> dict[str, Any]:
    """Rows of the table of layers, and their charts."""
    rows, groups = layer_rows(result), group_rows(result)
    drawn = [row for row in rows if charts.has_width(row)]
    removed = {name: len(gone) for name, gone in result.plan.remove.items()}
    timed = timed_layers(result)
    notes = remarks(result, groups, timed)
    return {
        "network": picture(result.coupling, rows, removed, notes) if rows else None,
        "groups": groups,
        "has_scores": any(group.kept_score is not None for group in groups),
        "has_damage": any(group.damage is not None for group in groups),
        **noise_content(result.original, result.quantized),
        "times": {each.layer: each.times for each in timed},
        "timed": timed,
        "time_chart": columns(timed) if timed else None,
        "roofline": roofline(timed) if timed else None,
        "rows": rows,
        "narrower": sum(row.is_narrower for row in rows),
        "undrawn": len(rows) - len(drawn),
        "width_chart": charts.widths(drawn) if drawn else None,
        "profile_chart": charts.profile(drawn) if len(drawn) > GLANCE else None,
    }


def noise_content(graph: Graph, quantized: QuantizeResult | None) -> dict[str, Any]:
    """Layers of a quantized model and the chart of their noise, for `noise.html`."""
    noise = quantized.layers if quantized is not None else ()
    named = [(shown(graph, layer.name), layer) for layer in noise]
    return {"noise": noise, "noise_chart": charts.noise(named)}


def cards(
    before: Cost,
    after: Cost,
    latency: Latency | None = None,
    sizes: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Say what the cards show: a quantity before and after as text, and the share that is left.

    `sizes` are the bytes of both files, where they are worth a card.
    """
    costs = [
        {
            "label": label,
            "before": _with_unit(a, unit),
            "after": _with_unit(b, unit),
            "part": b / a if a else 1.0,
            "note": f"{exact(a)} to {exact(b)}",
        }
        for label, unit, a, b in (
            ("Multiply-accumulates", "", before.macs, after.macs),
            ("Parameters", "", before.params, after.params),
            ("Bytes of weights", "B", before.bytes, after.bytes),
        )
    ]
    if sizes is not None:
        costs.append(file_card(sizes))
    return [*costs, latency_card(latency)] if latency is not None else costs


def file_card(sizes: tuple[int, int]) -> dict[str, Any]:
    """Say what the card of a file's bytes, before and after, shows."""
    before, after = sizes
    return {
        "label": "File",
        "before": f"{exact(before)} B",
        "after": f"{exact(after)} B",
        "part": after / before,
        "note": f"{before / after:.2f} times smaller",
    }


def latency_card(latency: Latency) -> dict[str, Any]:
    """Say what the card of the latency shows."""
    threads = count_of(latency.threads, "thread")
    return {
        "label": "Latency",
        "before": f"{latency.first:.3g} ms",
        "after": f"{latency.second:.3g} ms",
        "part": latency.second / latency.first,
        "note": f"batch 1, {threads}, median of {latency.runs} runs",
    }


def layer_path(graph: Graph, name: str) -> markupsafe.Markup:
    """A layer's name in the framework, which may break after its slashes and dots."""
    import markupsafe

    return markupsafe.Markup(
        markupsafe.escape(clean(shown(graph, name)))
        .replace("/", markupsafe.Markup("/<wbr>"))
        .replace(".", markupsafe.Markup(".<wbr>"))
    )


def _number(value: float | None, form: str) -> str:
    return "\u2013" if value is None else form.format(value)


def _short(value: int | None) -> str:
    return exact(value) if value is None or value < 1000 else amount(value)


def _with_unit(value: int, unit: str) -> str:
    text = amount(value)
    return text if not unit else text + unit if " " in text else f"{text} {unit}"


def settings(plan: Plan) -> list[tuple[str, str]]:
    """How the plan was made, as label and text; empty settings are left out."""
    given = {
        key: value for key, value in plan.provenance.items() if value not in (None, [], {})
    }
    settings = [(SETTINGS.get(key, key), _setting(value)) for key, value in given.items()]
    if plan.interface:
        settings.append(("Changed inputs and outputs", "; ".join(interface_lines(plan))))
    return settings


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(each)}" for key, each in value.items())
    return (
        ", ".join(map(_setting, value)) if isinstance(value, (list, tuple)) else str(value)
    )


def _plan(plan: Plan) -> dict[str, Any]:
    """The plan as text and as an address; neither where it is too large for a page, and its size."""
    text = plan_text(plan)
    fits = len(text) <= PLAN
    return {
        "plan": text if fits else None,
        "plan_link": _data_link(text) if fits else None,
        "plan_size": _with_unit(len(text), "B"),
    }


def plan_text(plan: Plan) -> str:
    """The plan as JSON, a line a group, in ASCII. Its `cuts` follow from the rest and are left out."""
    content = plan.to_json()
    parts = {key: json.dumps(value) for key, value in content.items() if key != "cuts"}
    groups = ",\n".join(
        f"  {json.dumps(group)}: {json.dumps(gone)}"
        for group, gone in content["remove"].items()
    )
    parts["remove"] = f"{{\n{groups}\n }}" if groups else "{}"
    return (
        "{\n"
        + ",\n".join(f" {json.dumps(key)}: {text}" for key, text in parts.items())
        + "\n}\n"
    )


def _data_link(text: str) -> str:
    return "data:application/json;base64," + base64.b64encode(text.encode()).decode()


def _versions() -> list[tuple[str, str]]:
    result = [("prunegraph", __version__), ("Python", platform.python_version())]
    result += [
        (name, importlib.import_module(name).__version__)
        for name in ("onnx", "onnxruntime", "numpy")
    ]
    return [*result, ("system", f"{platform.system()} {platform.machine()}")]
