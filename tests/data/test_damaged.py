"""Files of labels and images, changed at random: they are read, or refused in one line; never anything else."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunegraph.data.opening import open_data
from prunegraph.errors import PrunegraphError
from prunegraph.runtime.layout import LABELS
from tests.data.scenes import (
    network,
    scenes,
    write_classes,
    write_coco,
    write_voc,
    write_yolo,
)

GRAPH = network("N", 3, 16, 16)

ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(
        ["..", "\0", "scene01.png", "val", "1e400", [], {}, [[]], [1, 2, 3, 4]]
    ),
)


def shards(folder: Path) -> Path:
    """An archive of images with class numbers."""
    path = folder / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for number, file in enumerate(
            sorted(write_classes(folder / "c", each=1).rglob("*.jpg"))
        ):
            for suffix, data in (("cls", str(number).encode()), ("jpg", file.read_bytes())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def listed(folder: Path) -> Path:
    files = sorted(write_classes(folder / "c", each=1).rglob("*.jpg"))
    lines = [f"{file} {number}" for number, file in enumerate(files)]
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def coco(folder: Path) -> Path:
    return write_coco(scenes(3), folder)


def config(folder: Path) -> Path:
    content = {
        "do_resize": True,
        "size": {"height": 16, "width": 16},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    write_classes(folder / "c", each=1)
    (folder / "config.json").write_text(json.dumps(content))
    return folder / "config.json"


#: What writes a data set, the file that is damaged, and what is read; relative to the folder.
CASES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "coco": (coco, "annotations/instances_val.json", "annotations/instances_val.json", ""),
    "yolo": (lambda f: write_yolo(scenes(3), f), "labels/scene02.txt", "", ""),
    "voc": (lambda f: write_voc(scenes(3), f), "Annotations/scene02.xml", "", ""),
    "classes": (lambda f: write_classes(f / "c", each=1), "c/ball/0000.jpg", "c", ""),
    "names": (lambda f: write_yolo(scenes(3), f), "classes.txt", "", ""),
    "png": (lambda f: write_yolo(scenes(3), f), "images/scene01.png", "", ""),
    "list": (listed, "list.txt", "list.txt", ""),
    "shards": (shards, "shard.tar", "shard.tar", ""),
    "config": (config, "config.json", "c", "config.json"),
}


def attempt(folder: Path, source: str, preprocess: str) -> None:
    """Read all samples. Whatever is refused is refused in one line."""
    said = ""
    chain = str(folder / preprocess) if preprocess else "resize=16x16"
    try:
        data = open_data(str(folder / source), GRAPH, preprocess=chain, workers=0)
        for batch in data.fit(GRAPH).batches(GRAPH, 8, labels=True):
            assert np.isfinite(batch["photo"]).all()
            assert np.isfinite(batch.get(LABELS, np.zeros(1))).all()
    except PrunegraphError as error:
        said = str(error)
    assert "\n" not in said and len(said) < 1000


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    CASES[request.getfixturevalue("name")][0](tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_files_as_they_were_written_are_read(name: str, folder: Path) -> None:
    """What is damaged below is right before."""
    _, _, source, preprocess = CASES[name]
    chain = str(folder / preprocess) if preprocess else "resize=16x16"
    data = open_data(str(folder / source), GRAPH, preprocess=chain, workers=0)
    assert data.fit(GRAPH).samples == 3


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CASES)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_bytes_that_are_changed(name: str, folder: Path, data: st.DataObject) -> None:
    _, damaged, source, preprocess = CASES[name]
    path = folder / damaged
    whole = path.read_bytes()
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        end = data.draw(st.sampled_from([at, at + 1, at + 9, len(changed)]))
        changed[at:end] = data.draw(st.binary(max_size=4))
        if not changed:
            break
    path.write_bytes(changed)
    try:
        attempt(folder, source, preprocess)
    finally:
        path.write_bytes(whole)


def places(content: Any) -> list[tuple[Any, Any]]:
    """All containers in nested JSON, with each of their keys."""
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    inner = [
        place
        for key in keys
        if isinstance(content[key], dict | list)
        for place in places(content[key])
    ]
    return [(content, key) for key in keys] + inner


@pytest.mark.parametrize("name", ["coco", "config"])
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_json_of_other_values(name: str, folder: Path, data: st.DataObject) -> None:
    _, damaged, source, preprocess = CASES[name]
    path = folder / damaged
    whole = path.read_text()
    content = json.loads(whole)
    for _ in range(data.draw(st.integers(1, 2))):
        able = places(content)
        if not able:
            break
        where, key = able[data.draw(st.integers(0, len(able) - 1))]
        if data.draw(st.booleans()):
            where[key] = data.draw(ODD)
        else:
            del where[key]
    path.write_text(json.dumps(content))
    try:
        attempt(folder, source, preprocess)
    finally:
        path.write_text(whole)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lines=st.lists(
        st.lists(st.one_of(st.floats(), st.integers(), st.text(max_size=2)), max_size=8),
        max_size=3,
    )
)
def test_yolo_lines_of_any_words(lines: list[list[object]], tmp_path: Path) -> None:
    if not (tmp_path / "images").exists():
        write_yolo(scenes(3), tmp_path)
    text = "\n".join(" ".join(map(str, words)) for words in lines)
    (tmp_path / "labels" / "scene02.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    attempt(tmp_path, "", "")
