"""Images of every kind of source as what a network gets, with their labels."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunegraph.data.images import ImageSource
from prunegraph.data.opening import open_data
from prunegraph.data.samples import Samples8, Work, decode
from prunegraph.data.targets import Boxes, unpadded
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.runtime.layout import LABELS
from tests.data.scenes import (
    NAMES,
    Scene,
    network,
    save_images,
    scenes,
    write_classes,
    write_coco,
    write_voc,
    write_yolo,
)


def opened(path: object, preprocess: str = "resize=16x16", **options: object) -> Data:
    return open_data(str(path), GRAPH, preprocess=preprocess, **options).fit(GRAPH)  # type: ignore[arg-type]


GRAPH = network("N", 3, "height", "width")


def whole(data: Data) -> dict[str, np.ndarray]:
    return data.in_memory().parts[0]


# -- labels -------------------------------------------------------------------------------------


def test_folders_of_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "photos")
    batch = whole(opened(tmp_path / "photos"))
    assert batch[LABELS].dtype == np.int64
    assert batch[LABELS].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert batch["photo"].shape == (12, 3, 16, 16) and batch["photo"].dtype == np.float32
    with Image.open(tmp_path / "photos" / NAMES[1] / "0002.jpg") as image:
        expected = np.asarray(
            image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
        )
    np.testing.assert_array_equal(batch["photo"][6], expected.transpose(2, 0, 1))


def test_a_file_gives_the_order_of_classes(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "photos", each=1)
    (folder / "classes.txt").write_text("tree\nother\nball\ncrate\n")
    assert whole(opened(folder))[LABELS].tolist() == [2, 3, 0]


def test_images_of_one_folder_have_no_labels(tmp_path: Path) -> None:
    save_images(scenes(3), tmp_path / "photos")
    assert LABELS not in whole(opened(tmp_path / "photos"))
    assert LABELS not in whole(opened(tmp_path))
    one = opened(tmp_path / "photos" / "scene01.png")
    assert one.samples == 1 and one.labels is None


def test_lists_of_paths(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "some photos", each=1)
    lines = ["some photos/tree/0000.jpg 7", "", f"{folder}/ball/0000.jpg\t2"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    labelled = whole(opened(tmp_path / "list.txt"))
    assert labelled[LABELS].tolist() == [7, 2]
    (tmp_path / "list.txt").write_text(
        "some photos/tree/0000.jpg\nsome photos/ball/0000.jpg\n"
    )
    plain = whole(opened(tmp_path / "list.txt"))
    assert LABELS not in plain
    np.testing.assert_array_equal(plain["photo"], labelled["photo"])


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_shards(tmp_path: Path, kind: str) -> None:
    folder = write_classes(tmp_path / "photos", each=2)
    expected = whole(opened(folder))
    (tmp_path / "shards").mkdir()
    files = sorted(folder.rglob("*.jpg"))
    for shard, part in enumerate((files[:4], files[4:])):
        with tarfile.open(tmp_path / "shards" / f"{shard:03}.tar", "w") as archive:
            for number, file in enumerate(part):
                label = str(NAMES.index(file.parent.name))
                text = {"cls": label, "json": f'{{"label": {label}, "url": "x"}}'}[kind]
                for suffix, data in ((kind, text.encode()), ("jpg", file.read_bytes())):
                    member = tarfile.TarInfo(f"train/{shard}-{number}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    read = whole(opened(tmp_path / "shards"))
    np.testing.assert_array_equal(read["photo"], expected["photo"])
    np.testing.assert_array_equal(read[LABELS], expected[LABELS])
    assert opened(tmp_path / "shards" / "001.tar").samples == 2


# -- boxes --------------------------------------------------------------------------------------


def true_boxes(scene: Scene, side: int) -> Boxes:
    """Where boxes are in a letterbox of a side; the ratio is that of whole pixels, as they are drawn."""
    height, width = scene.size
    ratio = side / max(height, width)
    h, w = round(height * ratio), round(width * ratio)
    left, top = round((side - w) / 2 - 0.1), round((side - h) / 2 - 0.1)
    boxes = np.array(scene.boxes, np.float64).reshape(-1, 4)
    factors, shifts = [w / width, h / height] * 2, [left, top] * 2
    return Boxes(boxes * factors + shifts, np.array(scene.classes))


@pytest.mark.parametrize("write", [write_coco, write_yolo, write_voc])
def test_boxes_of_every_kind_of_label(
    tmp_path: Path, write: Callable[[list[Scene], Path], Path]
) -> None:
    made = scenes(9)
    batch = whole(opened(write(made, tmp_path / "set"), "yolo,letterbox=64"))
    assert batch[LABELS].shape == (9, 3, 5) and batch[LABELS].dtype == np.float32
    for scene, boxes in zip(made, unpadded(batch[LABELS]), strict=True):
        expected = true_boxes(scene, 64)
        assert boxes.classes.tolist() == expected.classes.tolist()
        np.testing.assert_allclose(boxes.xyxy, expected.xyxy, atol=1e-4)


@pytest.mark.parametrize("write", [write_coco, write_yolo, write_voc])
def test_names_of_classes(
    tmp_path: Path, write: Callable[[list[Scene], Path], Path]
) -> None:
    reader = opened(write(scenes(4), tmp_path / "set")).reader
    assert isinstance(reader, ImageSource)
    assert list(reader.listing.classes) == list(NAMES)


def test_yolo_labels_wherever_they_are(tmp_path: Path) -> None:
    made = scenes(5)
    root = write_yolo(made, tmp_path / "set")
    expected = whole(opened(root, "yolo,letterbox=64"))[LABELS]
    by_folder = whole(opened(root / "images", "yolo,letterbox=64"))[LABELS]
    np.testing.assert_array_equal(by_folder, expected)
    lines = [f"images/{scene.name}.png" for scene in made]
    (root / "train.txt").write_text("\n".join(lines))
    listed = whole(opened(root / "train.txt", "yolo,letterbox=64"))[LABELS]
    np.testing.assert_array_equal(listed, expected)
    beside = tmp_path / "beside"
    save_images(made, beside)
    for file in (root / "labels").iterdir():
        file.rename(beside / file.name)
    np.testing.assert_array_equal(
        whole(opened(beside, "yolo,letterbox=64"))[LABELS], expected
    )


def test_a_polygon_is_the_box_around_it(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("2 0.1 0.2 0.5 0.9 0.3 0.1\n")
    [boxes] = unpadded(whole(opened(tmp_path, "none"))[LABELS])
    np.testing.assert_allclose(boxes.rows, [[2, 10, 5, 50, 45]], atol=1e-4)


# -- kinds of image files -----------------------------------------------------------------------


def read_one(
    tmp_path: Path, name: str, image: Image.Image, **options: object
) -> np.ndarray:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    return whole(opened(tmp_path / name, "none"))["photo"][0].transpose(1, 2, 0)


def test_modes_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (9, 7, 4)).astype(np.uint8)
    rgb, gray = colors[:, :, :3], colors[:, :, 0]

    def check(name: str, image: Image.Image, expected: np.ndarray) -> None:
        read = read_one(tmp_path, name, image)
        np.testing.assert_array_equal(read, np.broadcast_to(expected, (9, 7, 3)))

    repeated = np.repeat(gray[:, :, None], 3, 2)
    check("rgb.png", Image.fromarray(rgb), rgb)
    check("gray.png", Image.fromarray(gray), repeated)
    check("alpha.png", Image.fromarray(colors), rgb)
    check("gray_alpha.png", Image.fromarray(colors[:, :, :2]), repeated)
    check("deep.png", Image.fromarray(gray.astype(np.uint16) * 256 + 77), repeated)
    check("bits.png", Image.fromarray(gray > 127), 255 * (repeated > 127))
    paletted = Image.fromarray(gray % 4)
    paletted.putpalette([1, 2, 3, 40, 50, 60, 7, 8, 9, 200, 100, 50])
    check("palette.gif", paletted, np.array(paletted.getpalette()).reshape(-1, 3)[gray % 4])
    paletted.info["transparency"] = 0
    check("clear.png", paletted, np.array(paletted.getpalette()).reshape(-1, 3)[gray % 4])
    # Colours of print, at full ink or none: no black is inverted.
    print_like = Image.fromarray(np.where(colors > 127, 255, 0).astype(np.uint8), "CMYK")
    ink = np.where(colors > 127, 1, 0).astype(int)
    check("print.tif", print_like, 255 * (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path: Path, orientation: int) -> None:
    """The orientation of EXIF says where row 0 and column 0 of the file are in the scene."""
    upright = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_one(
        tmp_path,
        "a.png",
        Image.fromarray(np.ascontiguousarray(stored)),
        exif=exif.tobytes(),
    )
    np.testing.assert_array_equal(read, upright)


def test_gray_networks_get_gray_images(tmp_path: Path) -> None:
    scene = scenes(1)[0]
    scene.image.save(tmp_path / "a.png")
    graph = network("N", 1, "h", "w")
    data = open_data(str(tmp_path), graph, preprocess="none").fit(graph)
    [batch] = data.batches(graph)
    np.testing.assert_array_equal(
        batch["photo"][0, 0], np.asarray(scene.image.convert("L"))
    )


# -- as a stream --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("data") / "photos", each=50)


def test_workers_decode_the_same_in_the_same_order(photos: Path) -> None:
    alone = list(opened(photos, workers=0).batches(GRAPH, 33, labels=True))
    together = list(opened(photos, workers=2).batches(GRAPH, 33, labels=True))
    assert [len(batch["photo"]) for batch in alone] == [33] * 4 + [18]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one["photo"], other["photo"])
        np.testing.assert_array_equal(one[LABELS], other[LABELS])


def test_errors_of_workers_are_ours(photos: Path, tmp_path: Path) -> None:
    from prunegraph.errors import DataError

    folder = write_classes(tmp_path / "photos", each=50)
    damaged = folder / NAMES[2] / "0031.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(DataError, match=r"0031\.jpg: not an image that can be read"):
        list(opened(folder, workers=2).chunks())


def test_workers_that_die_are_done_without(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunegraph.data import images

    expected = whole(opened(photos, workers=0))
    monkeypatch.setattr(images, "decode", decode_or_die)
    monkeypatch.setenv("MAIN_PROCESS", str(os.getpid()))
    read = whole(opened(photos, workers=2))
    for name in expected:
        np.testing.assert_array_equal(read[name], expected[name])


def decode_or_die(work: Work) -> Samples8:
    """Decode, but not in a worker."""
    if os.environ["MAIN_PROCESS"] != str(os.getpid()):
        os._exit(1)
    return decode(work)


def test_each_image_is_decoded_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunegraph.data import images

    decoded: list[str] = []

    def counting(work: images.Work) -> images.Samples8:
        decoded.extend(each.name for each in work.images)
        return original(work)

    original = images.decode
    data = opened(photos, workers=0)
    monkeypatch.setattr(images, "decode", counting)
    first = whole(data)
    assert len(decoded) - len(set(decoded)) <= 64  # `fit` looked at the first ones
    decoded.clear()
    again = whole(data)
    taken = data.by_number().take(np.array([140, 3, 3]))
    assert not decoded
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(taken[name], first[name][[140, 3, 3]])


def test_without_room_on_the_disk_images_are_decoded_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunegraph.data import pixel_store

    expected = whole(opened(photos))
    monkeypatch.setattr(pixel_store, "LIMIT", 1000)
    data = opened(photos)
    for _ in range(2):
        np.testing.assert_array_equal(whole(data)["photo"], expected["photo"])
    np.testing.assert_array_equal(
        data.by_number().take(np.array([7, 100]))["photo"], expected["photo"][[7, 100]]
    )


def test_two_readers_at_once(photos: Path) -> None:
    data = opened(photos, workers=0)
    expected = whole(opened(photos))["photo"]
    parts = [
        (a["photo"], b["photo"]) for a, b in zip(data.chunks(), data.chunks(), strict=True)
    ]
    for side in range(2):
        np.testing.assert_array_equal(np.concatenate([p[side] for p in parts]), expected)


def test_parts_are_those_of_arrays(photos: Path) -> None:
    """Every way to take some samples gives what it gives for the same samples in memory."""
    data = opened(photos)
    arrays = Data.of(whole(data)).fit(GRAPH)
    assert data.digest == arrays.digest and data.samples == arrays.samples
    np.testing.assert_array_equal(data.labels, arrays.labels)
    ways: list[Callable[[Data], Data]] = [
        lambda each: each.head(7),
        lambda each: each.draw(11, 5),
        lambda each: each.where(lambda numbers: numbers % 3 == 1),
        lambda each: each.without_labels(),
        lambda each: each.where(lambda numbers: numbers > 60).draw(20, 1).head(13),
        lambda each: each.draw(70, 2).without_labels().where(lambda n: n % 2 == 0),
    ]
    for way in ways:
        mine, theirs = way(data), way(arrays)
        assert mine.samples == theirs.samples and mine.digest == theirs.digest
        assert (mine.labels is None) == (theirs.labels is None)


def test_notes_and_progress(photos: Path) -> None:
    notes: list[str] = []
    steps: list[str] = []
    data = open_data(
        str(photos),
        GRAPH,
        preprocess="",
        note=notes.append,
        progress=steps.append,
        workers=0,
    )
    whole(data.fit(GRAPH))
    assert [
        note for note in notes if note.startswith("preprocessing was guessed: resize=256")
    ]
    (numbered,) = (note for note in notes if "numbered" in note)
    first, *_, last = sorted(NAMES)
    assert f"0 is '{first}' and {len(NAMES) - 1} '{last}'" in numbered
    assert steps[-1].startswith("decoding images: ") and steps[-1].endswith("0:00 left")


def test_fixed_batches(photos: Path) -> None:
    graph: Graph = network(4, 3, 16, 16)
    data = open_data(str(photos), graph, preprocess="resize=16x16").fit(graph)
    assert [len(batch["photo"]) for batch in data.batches(graph)] == [4] * 37
