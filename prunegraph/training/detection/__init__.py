"""Losses of detectors by name: `yolo`, `yolo_anchors`, `ssd`.

Labels are float32 [samples, most, 5]: class, left, top, right, bottom in pixels of the network's input; rows of
class -1 are padding.
"""

from __future__ import annotations

from prunegraph.training.detection import (  # noqa: F401  (losses that register themselves)
    anchor_free,
    anchors,
    ssd,
)
