"""The page of a training: every epoch's figures, while it goes on and when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import WorseError
from prunegraph.report.live import LivePage
from prunegraph.report.trained import TrainingPage, chart
from tests.builders import residual_net
from tests.commands import in_process as cli
from tests.report.page import HOSTILE, Page, chain
from tests.report.test_live import cells
from tests.report.test_report import assert_loads_nothing


@dataclass(frozen=True)
class Trained:
    """What a training made, as the page reads it."""

    model: pg.Graph
    history: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What came of a training, as the page reads it."""

    difference: float = 0.25
    same: float | None = 91.5
    metric: Any = field(
        default_factory=lambda: type("Top", (), {"name": "top1", "unit": "%"})
    )
    before: float = 80.0
    after: float = 85.5


RECORDS: tuple[dict[str, Any], ...] = (
    {"stage": "tune", "epoch": 1, "loss": 2.5, "metric": 60.25, "lr": 0.1},
    {"stage": "tune", "epoch": 2, "loss": 1.25, "metric": 70.5, "lr": 0.05},
    {"stage": "prune", "macs": 123456, "params": 789, "metric": 41.0},
    {"stage": HOSTILE[0], "epoch": 1, "loss": 0.75, "metric": -65.125},
)


def test_every_epoch_is_on_the_page_at_once(tmp_path: Path) -> None:
    graph, path = chain(3, HOSTILE), tmp_path / "page.html"
    page = TrainingPage(LivePage(path, 0.0), graph, "top1", "prunegraph train")
    for count, record in enumerate(RECORDS, 1):
        page(record)
        shown = Page(path.read_text())
        assert_loads_nothing(shown)
        assert "Not finished" in shown.text(inside="header")
        texts = list(cells(shown, "epochs"))
        for each in RECORDS[:count]:
            assert str(each["stage"]) in texts
            assert all(f"{each[k]:.4g}" in texts for k in ("loss",) if k in each)
            assert f"{abs(each['metric']):.4g}" in texts
        assert not [a for a in shown.attributes("section") if a["id"] == "totals"]
        tips = [tip for tip in shown.titles() if "top1" in tip]
        losses = sum("loss" in each for each in RECORDS[:count])
        assert len(tips) == losses + count
    page.finished(Trained(residual_net(), RECORDS, ("it was short",)), Judged())  # type: ignore[arg-type]
    shown = Page(path.read_text())
    assert "Not finished" not in shown.text(inside="header")
    text = shown.text(inside="totals")
    assert "top185.5 %before: 80 %" in text
    assert "it was short" in text and "91.50 % of the classes are the same" in text


def marks(records: tuple[dict[str, Any], ...], metric: str) -> str:
    drawn = chart(records, metric)
    assert drawn is not None
    return drawn


def test_stages_and_cuts_are_told_apart() -> None:
    drawn = marks(RECORDS, "top1")
    assert drawn.count("prune: top1 41, 123,456 MACs") == 1
    assert drawn.count("tune: epoch 2, loss 1.25, top1 70.5") == 2
    assert drawn.count('stroke-dasharray="3,4"') == 1, "where the second stage begins"
    assert 'stroke-dasharray="3,4"' not in marks(RECORDS[:2], "top1")
    assert chart(RECORDS[2:3], "top1") is None and chart((), "") is None
    # Without a metric there is one curve.
    plain = marks(({"stage": "plain", "epoch": 1, "loss": 3.0},), "")
    assert plain.count("plain: epoch 1, loss 3<") == 1


def test_a_training_that_is_refused_says_so(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page = TrainingPage(LivePage(path), chain(3), "top1", None)
    page.measured(Trained(chain(3), RECORDS), Judged(after=70.0))  # type: ignore[arg-type]
    with pytest.raises(WorseError), page.page.watching():
        raise WorseError("the result is worse")
    header = Page(path.read_text()).text(inside="header")
    assert "Stopped. the result is worse" in header


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((48, 3, 8, 8)).astype(np.float32)
    np.savez("data.npz", x=x, labels=rng.integers(0, 5, 48))
    pg.save(residual_net(), "net.onnx")
    given = ["--data", "data.npz", "--eval", "data.npz", "--batch", 24, "--epochs", 3]
    done = cli(
        "train", "net.onnx", "-o", "o.onnx", *given, "--force", "--log", "log.csv",
        "--report", "page.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "wrote page.html" in done.stderr
    page = Page(Path("page.html").read_text())
    rows = [line.split(",") for line in Path("log.csv").read_text().splitlines()[1:]]
    assert len(rows) == 3
    texts = list(cells(page, "epochs"))
    for _, epoch, loss, metric, *_ in rows:
        assert {epoch, f"{float(loss):.4g}", f"{float(metric):.4g}"} <= set(texts)
    assert "prunegraph train net.onnx" in page.text(inside="repeat")
    assert "Not finished" not in page.text(inside="header")
    done = cli("train", "net.onnx", "-o", "o.onnx", *given, "--report", "o.onnx")
    assert done.exit_code != 0
