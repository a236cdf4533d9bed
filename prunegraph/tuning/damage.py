"""Damage: what it costs at the network's outputs when a unit loses channels, for all units in seconds.

Relative errors of layers say little of one another; what they do to the outputs does. Every unit is made
smaller by itself, at a few strengths, the layers behind it compensated (`tuning.substitution`), and all
that runs side by side from where it differs (`tuning.relay`). The curves are made of few points: between and beyond
them damage is a power of the share that is gone. Source: ALGORITHMS 9.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from prunegraph.coupling.coupling import Coupling
from prunegraph.ops.cost import cost
from prunegraph.runtime.data import Batch, Data
from prunegraph.runtime.division import MEASURED
from prunegraph.runtime.statistics import Statistics, batch_size
from prunegraph.selection.units import Removal, Unit, collect, up_to
from prunegraph.tuning.judging import judged_by
from prunegraph.tuning.relay import Relay, Version
from prunegraph.tuning.substitution import Substitution

Array = np.ndarray
Progress = Callable[[str], None]

#: Shares of a unit at which it is measured, if its steps allow it; those of large networks, where it takes long.
STRENGTHS, FEWER = (0.15, 0.4, 0.75), (0.2, 0.6)

#: Multiply-accumulates that are spent on measuring, and the samples that are looked at: two texts have as many
#: positions as are judged.
WORK, SAMPLES = 2e12, (2, MEASURED)

#: Samples that curves are made from at most: there are many of them, and each point is one of several.
SKETCHED = 32

#: Values of all versions that are kept at a time, in bytes.
KEEP = 2**28

#: Values inside of a stretch that are computed at a time, in bytes.
INSIDE = 2**26

#: Exponent of a curve with one point, and the least and largest of the others.
POWER, POWERS = 2.0, (1.0, 4.0)

#: Share, damage: a unit's curve.
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Damage:
    """Measures what removals do to the outputs, on a few samples that the substitution was not fitted to.

    Args:
        coupling: what can be pruned.
        statistics: what data show of the graph, without the samples that are measured on (see `runtime.division`).
        held: the samples that are measured on.
        progress: told what goes on.
    """

    coupling: Coupling
    statistics: Statistics
    held: Data
    progress: Progress = lambda stage: None

    @cached_property
    def substitution(self) -> Substitution:
        """What makes the weights of versions, from the samples that are not measured on."""
        return Substitution(self.coupling, self.statistics)

    def curves(self, units: Sequence[Unit]) -> dict[str, Curve]:
        """Damage by the share of a unit that is gone, at every one of its steps; by the unit's id.

        Raises:
            DataError: the outputs are no numbers that could be compared.
            ModelError: a part of the model cannot be run by itself.
        """
        wanted = [
            (unit, share)
            for unit in units
            for share in _shares(unit, self._strengths(len(units)))
        ]
        removals = [collect(up_to(unit.steps, share)) for unit, share in wanted]
        values = self.measure(removals, SKETCHED)
        points: dict[str, Curve] = {unit.id: [] for unit in units}
        for (unit, share), value in zip(wanted, values, strict=True):
            points[unit.id].append((share, value))
        return {
            unit.id: power_law(points[unit.id], [step.share for step in unit.steps])
            for unit in units
        }

    def _strengths(self, units: int) -> tuple[float, ...]:
        """Fewer where even the fewest samples are more work than there should be."""
        graph = self.coupling.graph
        one = cost(graph).macs / (self.held.fixed(graph) or 1)
        work = one * SAMPLES[0] * units * len(STRENGTHS) / 2
        return STRENGTHS if work <= WORK else FEWER

    def measure(self, removals: Sequence[Removal], most: int = SAMPLES[1]) -> list[float]:
        """The damage of each of several removals, on `most` samples at most: 0 is the original.

        Raises:
            DataError: the outputs are no numbers that could be compared.
            ModelError: a part of the model cannot be run by itself.
        """
        return self.judged([self.version(removed) for removed in removals], most)

    def version(self, removed: Removal) -> Version:
        """The graph with a removal. Raises DataError where a part of it does not run by itself."""
        touched = self.substitution.touched(removed)
        return Version(frozenset(touched), partial(self.substitution.revision, removed))

    def judged(self, versions: Sequence[Version], most: int = SAMPLES[1]) -> list[float]:
        """The damage of each of several versions of the graph, on `most` samples at most; raises as `measure` does."""
        graph = self.coupling.graph
        judge = judged_by(graph, self.coupling.shape_info.shapes)
        relay = Relay(graph, self.coupling.shape_info.shapes, judge.wanted)
        self.progress(f"damage: {len(versions)} versions at the outputs")
        batches = self._batches(relay, versions, most)
        reference = judge.against(relay.run(batches, versions))
        return [reference.damage(each) for each in versions]

    def _batches(self, relay: Relay, versions: Sequence[Version], most: int) -> list[Batch]:
        """As many samples as time and memory allow."""
        graph, data = self.coupling.graph, self.held
        size = data.fixed(graph)
        each = cost(graph).macs / (size or 1)
        count = int(np.clip(WORK / max(each * len(versions) / 2, 1), SAMPLES[0], most))
        done: set[int] = set()
        for stretch in relay.stretches:
            started = sum(bool(version.nodes & done) for version in versions)
            done |= stretch.indices
            if started:
                fits = batch_size(
                    graph, data, _outer(relay, stretch.reads), KEEP // started
                )
                count = max(min(count, fits), 1)
        chosen = data.head(max(count, size or 1))
        # What a stretch makes inside is held by ONNX Runtime while it runs.
        created = [
            [v for node in each.nodes for v in node.outputs] for each in relay.stretches
        ]
        at_a_time = min(batch_size(graph, data, values, INSIDE) for values in created)
        return list(chosen.batches(graph, size or min(count, at_a_time)))


def _outer(relay: Relay, names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in relay.graph.inputs]


def _shares(unit: Unit, strengths: Sequence[float]) -> list[float]:
    """The shares of a unit's steps that come nearest to some strengths."""
    shares = np.asarray([step.share for step in unit.steps])
    nearest = {int(abs(shares - wanted).argmin()) for wanted in strengths if len(shares)}
    return [float(shares[index]) for index in sorted(nearest)]


def power_law(points: Sequence[tuple[float, float]], shares: Sequence[float]) -> Curve:
    """A rising curve through points, at shares: straight lines between logarithms, and beyond the ends as there.

    Args:
        points: (share, damage), by rising share.
        shares: above 0, rising.
    """
    if not points:
        return [(share, 0.0) for share in shares]
    x = np.log([share for share, _ in points])
    tiny = np.finfo(np.float64).tiny
    y = np.log(np.maximum(np.maximum.accumulate([max(v, 0.0) for _, v in points]), tiny))
    slopes = np.clip(np.diff(y) / np.diff(x), *POWERS) if len(x) > 1 else [POWER]
    at = np.log(shares)
    result = np.interp(at, x, y)
    result = np.where(at < x[0], y[0] + slopes[0] * (at - x[0]), result)
    result = np.where(at > x[-1], y[-1] + slopes[-1] * (at - x[-1]), result)
    return list(zip(map(float, shares), map(float, np.exp(result)), strict=True))
