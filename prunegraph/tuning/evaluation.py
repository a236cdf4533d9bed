"""Candidates: the model without some channels, repaired, and measured. No training, and no proof yet.

Everything that all candidates share is written to a folder once (model, data in batches, the
original's outputs on them), so that workers anywhere get it by files; a candidate itself is
only the channels to remove.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from prunegraph.coupling.analysis import analyze
from prunegraph.coupling.coupling import Coupling
from prunegraph.coupling.survivors import Survivors
from prunegraph.errors import DataError, ModelError
from prunegraph.graph import onnx_io
from prunegraph.graph.model import Graph
from prunegraph.measuring import metrics
from prunegraph.measuring.metrics import Metric, Seen
from prunegraph.measuring.parallel import Pool, pool
from prunegraph.recovery import repairs
from prunegraph.rewriting.cut import cut
from prunegraph.runtime.data import LABELS, Data
from prunegraph.runtime.engine import Runtime
from prunegraph.runtime.runtimes import DEFAULT, find
from prunegraph.runtime.statistics import batch_size
from prunegraph.selection.units import Removal
from prunegraph.tuning.resume import Key, MeasuredFile, digest

Array = np.ndarray

MODEL, STUDY, CALIBRATION, BATCH = (
    "model.onnx",
    "study.pickle",
    "calibration-{}.joblib",
    "batch-{}.joblib",
)


@dataclass(frozen=True)
class Study:
    """What candidates are made from and measured by.

    Args:
        coupling: the model's.
        calibration: what repairs are fitted on; only read where there is one.
        evaluation: what the metric is measured on.
        metric: the metric, as `metrics.portable` gives it; None is the one that says most.
        repair: one of `prunegraph.recovery.repairs`, by name.
        jobs: worker processes; None is one for each core.
        cluster: address of a Dask scheduler, instead of processes.
        resume: a file that keeps what was measured, and gives it again; None keeps nothing.
        runtime: where the original and the candidates run: its name, and its device or None.
    """

    coupling: Coupling
    calibration: Data
    evaluation: Data
    metric: str | metrics.CustomMetric | None = None
    repair: str = "none"
    jobs: int | None = None
    cluster: str | None = None
    resume: Path | None = None
    runtime: tuple[str, str | None] = (DEFAULT, None)


class Trials:
    """The metric of candidates, each measured once however often it is asked for.

    `metric` is what measures, `original` the original's own figure, `width` how many
    candidates are measured at a time. What `kept` has of earlier runs is not measured again.
    """

    def __init__(
        self,
        workers: Pool,
        metric: Metric,
        original: float,
        kept: MeasuredFile | None = None,
    ):
        self.metric, self.original, self.width = metric, original, workers.width
        self._workers = workers
        self._kept = kept
        self._values: dict[Key, float] = {**(kept.values if kept else {}), (): original}

    def measure(
        self, candidates: Sequence[Removal], done: Callable[[], None] = lambda: None
    ) -> list[float]:
        """The metric of candidates, in their order. Calls `done` after each that is new."""
        keys = [_key(each) for each in candidates]
        new = [key for key in dict.fromkeys(keys) if key not in self._values]
        for key, value in zip(new, self._workers.map(new) if new else (), strict=True):
            self._values[key] = value
            if self._kept is not None:
                self._kept.add(key, value)
            done()
        return [self._values[key] for key in keys]

    def known(self, candidate: Removal) -> float | None:
        """The metric of a candidate that was measured already; None of others."""
        return self._values.get(_key(candidate))

    def loss(self, value: float) -> float:
        """How much worse a value is than the original's."""
        return self.metric.loss(value, self.original)


def _key(candidate: Removal) -> Key:
    items = (
        (group, tuple(int(c) for c in channels))
        for group, channels in sorted(candidate.items())
    )
    return tuple((group, channels) for group, channels in items if channels)


def check_trials(
    graph: Graph,
    evaluation: Data,
    metric: str | metrics.CustomMetric | None,
    runtime: tuple[str, str | None] = (DEFAULT, None),
) -> None:
    """Hold a metric against the first batch of what it will be measured on, before any work.

    Raises:
        DataError: the data do not fit the model or the metric.
        PluginError: the user's metric fails.
    """
    inputs, expected = next(_answered(graph, evaluation, find(*runtime)))
    chosen = metric or metrics.default(expected, LABELS in inputs)
    with np.errstate(all="ignore"):
        metrics.resolve(chosen).measure([Seen(inputs, expected, expected)])


@contextmanager
def trials(study: Study) -> Iterator[Trials]:
    """Workers that measure candidates of a study.

    Raises:
        ClusterError: the cluster cannot be reached.
        DataError: the data do not fit the model or the metric.
        PluginError: the user's metric fails.
    """
    with tempfile.TemporaryDirectory(
        prefix="prunegraph-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        with pool(Evaluator, folder, jobs=study.jobs, cluster=study.cluster) as workers:
            metric, original, name = _write(study, folder)
            kept = MeasuredFile(study.resume, name) if study.resume else None
            yield Trials(workers, metric, original, kept)


# -- writing the folder -----------------------------------------------------------------


def _write(study: Study, folder: Path) -> tuple[Metric, float, str]:
    """Write what workers need; returns the metric, the original's figure, and a digest where it is asked for."""
    graph = study.coupling.graph
    onnx_io.save(graph, str(folder / MODEL))
    whole = False
    if study.repair != "none":
        calibration = study.calibration.fit(graph)
        whole = calibration.is_whole
        for index, chunk in enumerate(calibration.chunks()):
            joblib.dump(chunk, folder / CALIBRATION.format(index))
    runtime = find(*study.runtime)
    batches = _write_batches(graph, study.evaluation, folder, runtime)
    first = next(_seen(folder, batches))
    metric = study.metric or metrics.default(first.expected, LABELS in first.inputs)
    content = {
        "source": graph.source,
        "metric": metric,
        "repair": study.repair,
        "attention": study.coupling.attention,
        "blocks": study.coupling.blocks,
        "dropped": study.coupling.dropped,
        "batches": batches,
        "whole": whole,
        "groups": _digest(study.coupling),
        "runtime": study.runtime,
    }
    name = ""
    if study.resume:
        record: dict[str, object] = {
            k: v for k, v in content.items() if k not in ("source", "metric", "dropped")
        }
        record["dropped"] = sorted(study.coupling.dropped)
        # Its version counts as well.
        record["runtime"] = runtime.environment()
        name = digest(folder, record, metric)
    (folder / STUDY).write_bytes(pickle.dumps(content))
    measured = metrics.resolve(metric)
    with np.errstate(all="ignore"):
        original = measured.measure(metrics.itself(_seen(folder, batches)))
    if not math.isfinite(original):
        raise DataError(
            f"metric {measured.name!r} of the original is {original}: nothing can be compared with that"
        )
    return measured, original, name


def _write_batches(graph: Graph, data: Data, folder: Path, runtime: Runtime) -> int:
    """Write batches of inputs, labels where there are any, and the original's outputs; returns how many."""
    count = 0
    for count, answered in enumerate(_answered(graph, data, runtime), 1):
        joblib.dump(answered, folder / BATCH.format(count - 1))
    return count


def _answered(
    graph: Graph, data: Data, runtime: Runtime
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """Batches of inputs, with labels where there are any, and a graph's outputs. Raises DataError for none."""
    opened, data = runtime.open(graph, graph.source), data.fit(graph)
    every = [output for node in graph.nodes for output in node.outputs if output]
    is_empty = True
    for batch in data.batches(graph, batch_size(graph, data, every), labels=True):
        is_empty = False
        given = {name: batch[name] for name in graph.inputs}
        yield batch, dict(zip(graph.outputs, opened.run(given), strict=True))
    if is_empty:
        raise DataError(f"{data.source}: has fewer samples than the model's batch size")


def _digest(coupling: Coupling) -> str:
    """Say what tells the groups of two analyses apart."""
    return hashlib.sha256(
        json.dumps([group.to_json() for group in coupling.groups]).encode()
    ).hexdigest()


def _seen(
    folder: Path,
    batches: int,
    result: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None,
) -> Iterator[Seen]:
    """The batches of a folder, with what a candidate makes of their inputs."""
    for index in range(batches):
        inputs, expected = joblib.load(folder / BATCH.format(index), mmap_mode="r")
        yield Seen(inputs, expected, result(inputs) if result else expected)


# -- in a worker ------------------------------------------------------------------------


class Evaluator:
    """Measures candidates from the files of a folder.

    Raises:
        ModelError: the model has other groups here than where the folder was written.
    """

    def __init__(self, folder: Path):
        content: dict[str, Any] = pickle.loads((folder / STUDY).read_bytes())
        graph = onnx_io.load(folder / MODEL)
        graph.source = content["source"]
        self.folder, self.batches = folder, content["batches"]
        self.metric = metrics.resolve(content["metric"])
        coupling = analyze(graph, attention=content["attention"], blocks=content["blocks"])
        self.coupling = coupling.without(content["dropped"])
        self.data = Data(self._calibration, "calibration data", whole=content["whole"])
        # As many threads as the pool gives a worker.
        name, device = content["runtime"]
        self.runtime = find(name, device, 0)
        self.repair = repairs.find(content["repair"], self.data, graph)
        if _digest(self.coupling) != content["groups"]:
            raise ModelError(
                "a worker finds other groups in this model; operator rules have to be installed where workers run "
                "(as an entry point), or use one process: --jobs 1"
            )

    def __call__(self, key: Key) -> float:
        """The metric of the model without the channels of a candidate."""
        survivors = Survivors(self.coupling, dict(key))
        pruned = self.repair(survivors, cut(survivors), self.data, lambda stage: None)
        opened = self.runtime.open(pruned, pruned.source)
        names = self.coupling.graph.outputs

        def outputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
            given = {name: array for name, array in inputs.items() if name != LABELS}
            return dict(zip(names, opened.run(given), strict=True))

        with np.errstate(all="ignore"):
            return self.metric.measure(_seen(self.folder, self.batches, outputs))

    def _calibration(self) -> Iterator[dict[str, Array]]:
        index = 0
        while (path := self.folder / CALIBRATION.format(index)).exists():
            yield joblib.load(path, mmap_mode="r")
            index += 1
