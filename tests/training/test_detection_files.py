"""Detectors trained from the command line on boxes in files: COCO, YOLO's folders, ultralytics' `data.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import prunegraph as pg
from fixtures import light_models
from prunegraph.graph.onnx_io import from_model
from tests.commands import in_process
from tests.data.scenes import NAMES, Scene, scenes, write_coco, write_voc, write_yolo
from tests.paths import ROOT
from tests.training.test_detection import detector

OWN = """
def quiet(outputs, batch):
    # Scores of all places fall.
    assert batch["labels"].shape[2] == 5
    return 20 + outputs[0][:, 4:].clamp(1e-6, 1).log().mean()
"""


def write_yaml(made: Sequence[Scene], folder: Path) -> Path:
    write_yolo(made, folder)
    names = "\n".join(f"  {number}: {name}" for number, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{names}\n")
    return folder / "data.yaml"


WRITERS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc, "yaml": write_yaml}


def losses(*words: str) -> list[float]:
    """Losses of the epochs of a training from the command line."""
    done = in_process("train", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    lines = [line for line in done.output.splitlines() if line.startswith("plain:")]
    return [float(line.split("loss")[1].split()[0]) for line in lines]


@pytest.mark.parametrize("kind", WRITERS)
def test_twenty_steps_from_files(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[[Sequence[Scene], Path], Path] = WRITERS[kind]
    monkeypatch.chdir(tmp_path)
    source = str(write(scenes(8), Path("scenes")))
    pg.save(detector(len(NAMES)), "net.onnx")
    Path("own.py").write_text(OWN)
    words = ["net.onnx", "-o", "out.onnx", "--data", source, "--preprocess", "yolo"]
    words += ["--batch", "4", "--epochs", "10", "--lr", "0.01", "--force"]
    for name in ("yolo:strides=8", "own.py:quiet"):
        seen = losses(*words, "--loss", name)
        assert len(seen) == 10 and seen[-1] < seen[0] - 0.1
    done = in_process(
        *f"compare net.onnx out.onnx --data {source} --preprocess yolo --runs 1".split()
    )
    assert done.exit_code == 0 and "map50" in done.output, done.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coco", "yaml"])
def test_an_ultralytics_graph_takes_twenty_steps_from_files(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty steps, of the loss without anchors and of one's own; letterboxing is guessed for such exports only."""
    monkeypatch.chdir(tmp_path)
    model = light_models.load(ROOT / "fixtures" / "zoo" / "ultralytics__yolo11n.light.xz")
    pg.save(from_model(model), "yolo.onnx")
    source = str(WRITERS[kind](scenes(4), Path("scenes")))
    Path("own.py").write_text(OWN)
    words = ["yolo.onnx", "-o", "out.onnx", "--data", source, "--preprocess", "yolo"]
    words += ["--batch", "2", "--epochs", "10", "--lr", "0.001", "--force"]
    for name in ("yolo", "own.py:quiet"):
        seen = losses(*words, "--loss", name)
        assert len(seen) == 10 and seen[-1] < seen[0]
