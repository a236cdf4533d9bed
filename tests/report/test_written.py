"""Pages of what `quantize`, `compress` and `decompose` wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.quantization.quantize import quantize
from prunegraph.report import quantized, written
from prunegraph.report.html import cards, file_card
from prunegraph.report.written import WrittenReport
from tests.commands import MODEL, check_refused, in_process
from tests.report.page import HOSTILE, Page, chain
from tests.report.test_report import assert_loads_nothing

IMAGES = str(Path(MODEL).with_name("fashion_calibration.npz"))


@pytest.fixture
def few(tmp_path: Path) -> Path:
    with np.load(IMAGES) as file:
        np.savez(tmp_path / "few.npz", **{name: file[name][:16] for name in file})
    return tmp_path / "few.npz"


def page_of(folder: Path, *words: object) -> Page:
    """The page that a command writes beside its model; what it said names the page."""
    path = folder / "page.html"
    done = in_process(*words, "-o", folder / "out.onnx", "--report", path)
    assert done.exit_code == 0, done.output
    assert f"wrote {path}" in " ".join(done.output.split())
    page = Page(path.read_text())
    assert_loads_nothing(page)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.attributes("a")} <= set(ids)
    assert len(page.attributes("caption")) == len(page.attributes("table"))
    return page


def test_quantized(tmp_path: Path, few: Path) -> None:
    page = page_of(tmp_path, "quantize", MODEL, "--data", few)
    before, after = (Path(p).stat().st_size for p in (MODEL, tmp_path / "out.onnx"))
    assert f"{before:,} B → {after:,} B" in page.text(inside="totals")
    assert "dB" in page.text(inside="totals")
    assert "classifier int8 uint8" in page.text(inside="noise")
    assert page.text(inside="noise").count("int8 uint8") == 16
    assert "same class" in page.text(inside="examples")
    assert "prunegraph quantize" in page.text(inside="repeat")


def test_compressed(tmp_path: Path, few: Path) -> None:
    page = page_of(
        tmp_path, "compress", MODEL, "--macs", 0.5, "--data", few, "--quantize", "int8"
    )
    assert "Multiply-accumulates" in page.text(inside="totals")
    assert "Params" in page.text(inside="table-1")
    assert page.text(inside="table-1").count("%") == 2 * 16
    assert "chosen" in page.text(inside="table-2")
    assert "int8 uint8" in page.text(inside="noise")
    assert "same class" in page.text(inside="examples")


def test_decomposed_without_data(tmp_path: Path) -> None:
    page = page_of(tmp_path, "decompose", MODEL, "--macs", 0.5)
    assert "20,183,936 to 10,079,744" in page.text(inside="totals")
    assert "stages.0.conv2" in page.text(inside="table-1")
    assert "MACs" in page.text(inside="table-1")
    assert {"examples", "noise"}.isdisjoint(a.get("id") for _, a in page.elements)


def test_names_cannot_break_out(tmp_path: Path) -> None:
    graph = chain(len(HOSTILE) + 1, HOSTILE)
    graph.source = f"folder/{HOSTILE[1]}.onnx"
    data = {graph.inputs[0]: np.random.default_rng(0).standard_normal((2, 3, 4, 4))}
    result = quantize(graph, {k: v.astype(np.float32) for k, v in data.items()})
    low_rank = pg.decompose(graph, rank="ratio:0.5")
    from prunegraph.report.decomposed import layers_table

    report = WrittenReport(
        graph,
        result.model,
        "Report of quantization",
        HOSTILE[0],
        [*cards(low_rank.before, low_rank.after), file_card((2000, 500))],
        [*quantized.outcome(result, graph).splitlines(), *HOSTILE],
        [layers_table(low_rank, graph), quantized.layers_table(result, graph)],
        result,
    )
    written.write(report, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert_loads_nothing(page)
    assert "alert(1)" in page.text(inside="noise")
    assert "{{ 7 * 7 }}" in page.text(inside="totals")
    assert "\x1b" not in page.source
    assert "4.00 times smaller" in page.text(inside="totals")


@pytest.mark.parametrize(
    "command", ["quantize", "compress --macs 0.5", "decompose --macs 0.5"]
)
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, command: str
) -> None:
    pg.save(chain(3), tmp_path / "m.onnx")
    name, *options = command.split()
    words = " ".join([name, "m.onnx", "-o", "out.onnx", *options])
    check_refused(tmp_path, f"{words} --report none/page.html", "none")
    check_refused(tmp_path, f"{words} --report out.onnx", "out.onnx")
