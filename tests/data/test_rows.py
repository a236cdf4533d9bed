"""Rows of tables: what `datasets` gives, sequences of dicts, Parquet files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prunegraph.data.images import ImageSource
from prunegraph.data.opening import open_data, open_rows
from prunegraph.data.rows import Columns
from prunegraph.data.targets import unpadded
from prunegraph.errors import DataError
from prunegraph.runtime.data import Data
from prunegraph.runtime.layout import LABELS
from tests.data.scenes import NAMES, network, scenes
from tests.data.test_images import true_boxes, whole
from tests.data.test_texts import encoder, tokenizer

__all__ = ["tokenizer"]

GRAPH = network("N", 3, "height", "width")


class Table:
    """A table as `datasets.Dataset` is one: rows by number, columns by name, features of columns."""

    class _ClassLabel:
        names = list(NAMES)

    def __init__(self, rows: Sequence[dict[str, Any]]):
        self.rows, self.decoded = rows, 0
        self.column_names = list(rows[0])
        self.features = {"label": self._ClassLabel()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | str) -> Any:
        if isinstance(which, str):
            return [row[which] for row in self.rows]
        self.decoded += 1
        return self.rows[which]


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def opened(rows: Any, preprocess: str = "yolo,letterbox=32", **columns: str) -> Data:
    data = open_rows(rows, GRAPH, preprocess=preprocess, columns=Columns(**columns))
    return data.fit(GRAPH)


def test_images_of_every_form_are_the_same() -> None:
    made = scenes(6)
    labels = [number % 3 for number in range(6)]
    pairs = list(zip(made, labels, strict=True))
    pillow = Table(
        [{"id": 7, "image": scene.image, "label": kind} for scene, kind in pairs]
    )
    plain = [
        {"photo": {"bytes": png(scene.image), "path": None}, "kind": kind}
        for scene, kind in pairs
    ]
    arrays = [{"pixels": np.asarray(scene.image), "labels": kind} for scene, kind in pairs]
    expected = whole(opened(pillow))
    assert expected[LABELS].tolist() == labels
    for batch in (
        whole(opened(plain, label="kind")),
        whole(opened(arrays, image="pixels")),
    ):
        np.testing.assert_array_equal(batch["photo"], expected["photo"])
        np.testing.assert_array_equal(batch[LABELS], expected[LABELS])
    reader = opened(pillow).reader
    assert isinstance(reader, ImageSource) and list(reader.listing.classes) == list(NAMES)


def test_labels_are_read_without_images() -> None:
    table = Table([{"image": scene.image, "label": 1} for scene in scenes(6)])
    data = opened(table)
    before = table.decoded
    assert data.labels is not None and data.labels.tolist() == [1] * 6
    assert table.decoded == before


def test_boxes() -> None:
    made = scenes(7)
    rows = [
        {
            "image": scene.image,
            "objects": {
                "bbox": [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in scene.boxes],
                "category": list(scene.classes),
            },
        }
        for scene in made
    ]
    for scene, boxes in zip(made, unpadded(whole(opened(rows))[LABELS]), strict=True):
        expected = true_boxes(scene, 32)
        assert boxes.classes.tolist() == expected.classes.tolist()
        np.testing.assert_allclose(boxes.xyxy, expected.xyxy, atol=1e-4)


def test_texts(tokenizer: Path) -> None:
    rows = [
        {"idx": 1, "sentence": "the cat", "label": 2},
        {"idx": 2, "sentence": "ran", "label": 0},
    ]
    graph = encoder()
    data = open_rows(rows, graph, preprocess=str(tokenizer)).fit(graph)
    batch = whole(data)
    assert batch[LABELS].tolist() == [2, 0]
    assert batch["attention_mask"].sum(1).tolist() == [4, 3]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], {}, "rows: has no samples"),
        ([{"a": 1}], {}, "no column holds images"),
        (
            [{"image": Image.new("L", (4, 4))}],
            {"label": "kind"},
            "has no column 'kind'; it has image",
        ),
        (
            [{"image": Image.new("L", (4, 4)), "label": "cat"}],
            {},
            "'label' is no class number",
        ),
        (
            [{"image": Image.new("L", (4, 4))}, {"image": 3}],
            {},
            "row 1: 'image' is no image, but int",
        ),
        ([{"image": {"bytes": b"x"}}], {}, "rows, row 0: not an image"),
        ([[1]], {}, "row 0: not a dict by column"),
        (
            [
                {
                    "image": Image.new("L", (4, 4)),
                    "objects": {"bbox": [[1, 2, 3]], "category": [0]},
                }
            ],
            {},
            "row 0: not boxes",
        ),
        (
            [
                {
                    "image": Image.new("L", (4, 4)),
                    "objects": {"bbox": [[1, 2, 3, 4]], "category": []},
                }
            ],
            {},
            "row 0: boxes need a class",
        ),
    ],
)
def test_what_is_refused(rows: Any, columns: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        whole(opened(rows, **columns))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
    from pyarrow import parquet

    made = scenes(9)
    rows = [
        {"image": {"bytes": png(scene.image), "path": "x"}, "label": number % 3}
        for number, scene in enumerate(made)
    ]
    for name, part in (("a", rows[:5]), ("b", rows[5:])):
        table = pyarrow.Table.from_pylist(part)
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=2)
    data = open_data(str(tmp_path), GRAPH, preprocess="yolo,letterbox=32").fit(GRAPH)
    batch, expected = whole(data), whole(opened(rows))
    np.testing.assert_array_equal(batch["photo"], expected["photo"])
    np.testing.assert_array_equal(batch[LABELS], expected[LABELS])
    one = open_data(str(tmp_path / "b.parquet"), GRAPH, preprocess="yolo").fit(GRAPH)
    assert one.samples == 4
    (tmp_path / "b.parquet").write_bytes(b"PAR1nothingPAR1")
    with pytest.raises(DataError, match="not a Parquet file"):
        open_data(str(tmp_path), GRAPH)


def test_the_library_datasets() -> None:
    """Real data sets of the library: images with classes, images with boxes, texts."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    made = scenes(6)
    labels = [number % 3 for number in range(6)]
    images = [{"bytes": png(scene.image), "path": None} for scene in made]
    classes = datasets.Dataset.from_dict(
        {"image": images, "label": labels},
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
        ),
    )
    data = opened(classes)
    wanted = whole(
        opened([{"image": s.image, "label": n} for s, n in zip(made, labels, strict=True)])
    )
    for name, array in whole(data).items():
        np.testing.assert_array_equal(array, wanted[name])
    assert isinstance(data.reader, ImageSource)
    assert list(data.reader.listing.classes) == list(NAMES)
    some = whole(opened(classes.select([3, 1])))
    for name, array in some.items():
        np.testing.assert_array_equal(array, wanted[name][[3, 1]])
    objects = [
        {
            "bbox": [
                [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
                for x1, y1, x2, y2 in scene.boxes
            ],
            "category": [int(kind) for kind in scene.classes],
        }
        for scene in made
    ]
    boxes = datasets.Dataset.from_dict({"image": images, "objects": objects}).cast_column(
        "image", datasets.Image()
    )
    for scene, each in zip(made, unpadded(whole(opened(boxes))[LABELS]), strict=True):
        assert each.classes.tolist() == list(scene.classes)
        np.testing.assert_allclose(each.xyxy, true_boxes(scene, 32).xyxy, atol=1e-4)
