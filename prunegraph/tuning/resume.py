"""What was measured, kept in a file as it comes: a run that was killed goes on from there.

A line for each candidate, beside the digest of all that its figure depends on: the model, the data in batches, the
metric, the repair, and the versions of what computes. So one file serves several studies, and what another
command has measured of the same is not measured again; values of anything else are left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prunegraph.errors import MALFORMED, DataError, ModelError, OptionError
from prunegraph.measuring.metrics import CustomMetric

FORMAT = "prunegraph/measured@1"

#: What stands for a candidate: the channels it removes, by group id.
Key = tuple[tuple[str, tuple[int, ...]], ...]

#: Packages whose versions figures depend on.
PACKAGES = ("onnxruntime", "numpy", "prunegraph")


class MeasuredFile:
    """Figures of candidates of one study, in a file that others may share.

    Args:
        path: the file; it is made where there is none.
        study: the digest that tells the study from all others.

    Raises:
        DataError: the file holds something else.
        ModelError: it cannot be written.
    """

    def __init__(self, path: Path, study: str):
        self.path, self.study = path, study
        self.values = dict(_read(path, study))
        self._write("" if _ends_in_a_line(path) else "\n")

    def add(self, key: Key, value: float) -> None:
        """Keep a candidate's figure; it is on the disk when this returns."""
        self.values[key] = value
        line = {
            "format": FORMAT,
            "study": self.study,
            "remove": {group: list(channels) for group, channels in key},
            "value": repr(float(value)),
        }
        self._write(json.dumps(line) + "\n")

    def _write(self, text: str) -> None:
        try:
            with self.path.open("a") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ModelError(
                f"{self.path}: cannot be written: {error.strerror or error}"
            ) from error


def _ends_in_a_line(path: Path) -> bool:
    """Tell whether a file's last line is whole, as far as there is one."""
    return not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")


def _read(path: Path, study: str) -> Iterator[tuple[Key, float]]:
    """Figures of a study. A line that was cut off when the process was killed is left out; any other must be one."""
    if not path.exists():
        return
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a file of measured candidates: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or _is_cut_off(line):
            continue
        try:
            content = json.loads(line)
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
            key = tuple(
                (str(group), tuple(int(channel) for channel in channels))
                for group, channels in sorted(content["remove"].items())
            )
            value, other = float(content["value"]), content["study"]
        except (KeyError, TypeError, AttributeError, *MALFORMED) as error:
            raise DataError(
                f"{path}: line {number} is no measured candidate: {error}"
            ) from error
        if other == study:
            yield key, value


def _is_cut_off(line: str) -> bool:
    """Tell whether a line begins as one of these and does not end."""
    start = json.dumps({"format": FORMAT})[:-1]
    if line[: len(start)] != start[: len(line)]:
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def digest(folder: Path, content: Mapping[str, Any], metric: str | CustomMetric) -> str:
    """Digest of a study: files of the model and the data in its folder, what else it says, and versions.

    Raises:
        OptionError: the metric is a function, of which nothing says whether it is the same again.
    """
    if isinstance(metric, CustomMetric):
        if callable(metric.given):
            raise OptionError(
                "resume needs a metric by name or as file.py:function: a function in memory cannot be told from another"
            )
        said: object = [metric.name.rpartition(":")[2], *metric.given]
    else:
        said = metric
    result = hashlib.sha256()
    versions = {name: _version(name) for name in PACKAGES}
    text = json.dumps([dict(content), said, versions], sort_keys=True, default=str)
    result.update(text.encode())
    for path in sorted(folder.iterdir()):
        result.update(f"\0{path.name}\0".encode())
        with path.open("rb") as file:
            result.update(hashlib.file_digest(file, "sha256").digest())
    return result.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
