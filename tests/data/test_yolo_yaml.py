"""`data.yaml` of ultralytics: parts, names, where paths lead, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prunegraph as pg
from prunegraph.data.images import ImageSource
from prunegraph.data.opening import open_data
from prunegraph.errors import DataError, MissingExtraError
from prunegraph.runtime.data import Data
from prunegraph.runtime.layout import LABELS
from tests.commands import in_process
from tests.data.scenes import NAMES, network, save_images, scenes, write_yolo

yaml = pytest.importorskip("yaml")

GRAPH = network("N", 3, 64, 64)

NAMED = "names:\n  0: ball\n  1: crate\n  2: tree\n"


def opened(text: object, part: str = "train") -> Data:
    return open_data(str(text), GRAPH, preprocess="yolo", part=part).fit(GRAPH)


def written(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A data set as ultralytics' own lie: `images/train`, `labels/train`, and so on."""
    for part, seed, count in (("train", 0, 6), ("val", 1, 3)):
        write_yolo(scenes(count, seed), tmp_path / part)
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / kind).rename(tmp_path / "set" / kind / part)
    return tmp_path / "set"


def boxes(data: Data) -> np.ndarray:
    return next(data.batches(GRAPH, 64, labels=True))[LABELS]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("train: images/train\nval: images/val\n", "set"),
        ("path: .\ntrain: images/train\nval: [images/val]\n", "set"),
        ("path: set\ntrain: images/train\nval: images/val\n", "."),
        ("path: set\ntrain: images/train\nval: images/val\n", "set"),
        ("path: ../set\ntrain: images/train\nval: images/val\n", "other"),
        ("train: ../images/train\nval: ../images/val\n", "set"),
    ],
)
def test_where_parts_lie(text: str, place: str, parts: Path) -> None:
    file = written(parts.parent / place, text + NAMED)
    for part, count in (("train", 6), ("val", 3)):
        wanted = opened(parts / "images" / part)
        for data in (opened(file, part), opened(f"{file}:{part}")):
            assert data.samples == count
            np.testing.assert_array_equal(boxes(data), boxes(wanted))
            assert isinstance(data.reader, ImageSource)
            assert list(data.reader.listing.classes) == list(NAMES)


def test_several_folders_are_one_part(parts: Path) -> None:
    file = written(parts, f"train: [images/train, images/val]\n{NAMED}")
    wanted = np.concatenate(
        [boxes(opened(parts / "images" / part))[:, :2] for part in ("train", "val")]
    )
    assert opened(file).samples == 9
    np.testing.assert_array_equal(boxes(opened(file))[:, :2], wanted)


def test_lists_of_images_and_counts_of_classes(parts: Path) -> None:
    names = [f"./images/train/scene{number:02}.png" for number in (4, 1)]
    (parts / "train.txt").write_text("\n".join(names))
    file = written(parts, "train: train.txt\nnc: 3\n")
    data = opened(file)
    assert data.samples == 2
    wanted = boxes(opened(parts / "images" / "train"))[[4, 1]]
    np.testing.assert_array_equal(boxes(data), wanted[:, : boxes(data).shape[1]])


def test_train_and_eval_read_their_parts(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file behind `--data` and `--eval`: of the first the part to train on, of the second the other one."""
    file = written(parts, f"train: images/train\nval: images/val\n{NAMED}")
    asked: list[str] = []

    def told(text: str, graph: object, *, part: str, **rest: object) -> object:
        asked.append(part)
        if len(asked) == 2:
            raise DataError("enough")
        return open_data(text, GRAPH, preprocess="yolo", part=part)

    monkeypatch.chdir(parts)
    monkeypatch.setattr("prunegraph.data.opening.open_data", told)
    pg.save(GRAPH, "net.onnx")
    done = in_process(
        "train", "net.onnx", "-o", "o.onnx", "--data", file.name, "--eval", file.name
    )
    assert done.exit_code == 2 and asked == ["train", "val"]


def test_images_without_labels_calibrate(tmp_path: Path) -> None:
    save_images(scenes(3), tmp_path / "images" / "train")
    notes: list[str] = []
    file = written(tmp_path, f"train: images/train\n{NAMED}")
    data = open_data(str(file), GRAPH, preprocess="yolo", note=notes.append)
    assert data.samples == 3 and data.labels is None
    assert "data.yaml: images have no labels" in notes


BAD = {
    "no part": ("names: [a]\n", "names no part of a data set"),
    "no yaml": ("train: [\n", "not a YAML file"),
    "tabs": ("train:\n\t- a\n", "not a YAML file"),
    "code": ("train: !!python/object/apply:os.system [ls]\n", "not a YAML file"),
    "aliases": ("a: &a [x]\ntrain: *a\n", "has aliases"),
    "a list": ("- train\n", "names no part"),
    "another part": ("val: images/val\n", "has no part 'train'; it has val"),
    "a number": ("train: 3\n", "has no part 'train'; it has train"),
    "not there": ("train: images/none\n", "'train' is images/none, which is not there"),
    "a path that is none": (
        "path: [a]\ntrain: images/train\n",
        "`path` has to be a folder",
    ),
    "names of two": ("train: images/train\nnames: [a, b]\n", "names 2 classes, from 0"),
    "a gap": ("train: images/train\nnames: {0: a, 2: b}\n", "has to name all classes"),
    "wrong count": (f"train: images/train\nnc: 5\n{NAMED}", "`nc` is 5, and 3 classes"),
    "an empty folder": ("train: labels\n", "labels: holds no image"),
    "a list of numbers": ("train: [1, 2]\n", "has to be a path, or a list of paths"),
    "a name too long": (f"train: {'a' * 5000}\n", "which is not there"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_is_one_line(
    name: str, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, message = BAD[name]
    monkeypatch.chdir(parts)
    written(parts, text)
    pg.save(GRAPH, "net.onnx")
    done = in_process("quantize", "net.onnx", "-o", "out.onnx", "--data", "data.yaml")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.exit_code == 2 and len(errors) == 1, done.output
    assert errors[0].startswith("error: ") and message in errors[0]
    assert not Path("out.onnx").exists()


def test_a_part_that_is_none_and_a_missing_package(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    file = written(parts, f"train: images/train\n{NAMED}")
    with pytest.raises(DataError, match="'all' is no part; there are train, val, test"):
        opened(f"{file}:all")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(
        MissingExtraError,
        match=r"needs the package pyyaml: pip install 'prunegraph\[images\]'",
    ):
        opened(file)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_yaml_is_read_or_refused(parts: Path, data: st.DataObject) -> None:
    """Whatever stands in the file, as YAML or as bytes: data, or one error."""
    leaf = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 9),
        st.floats(),
        st.dates(),
        st.binary(max_size=3),
        st.sampled_from(
            ["images/train", "images/val", "labels", "data.yaml", "", "\0", "~"]
        ),
    )
    value = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.one_of(st.integers(0, 3), st.text(max_size=2)), inner, max_size=3
            ),
        ),
        max_leaves=5,
    )
    keys = st.sampled_from(["path", "train", "val", "names", "nc"])
    content = data.draw(st.dictionaries(keys, value))
    raw = yaml.safe_dump(content).encode()
    if data.draw(st.booleans()) and raw:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + data.draw(st.binary(max_size=4)) + raw[at + 1 :]
    file = written(parts, "")
    file.write_bytes(raw)
    said = ""
    try:
        assert opened(file).samples > 0
    except DataError as error:
        said = str(error)
    assert "\n" not in said
