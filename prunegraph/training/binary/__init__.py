"""Binary weights with quantized half-wave activations, and their alternate update (source 003)."""

from __future__ import annotations

from prunegraph.training.binary.binarize import (
    BinarizeOptions,
    BinarizeResult,
    binarize,
    measured,
)
from prunegraph.training.binary.compression import CompressionRatios, compression
from prunegraph.training.binary.lower import lower
from prunegraph.training.binary.network import Quantizer, to_binary, trainable
from prunegraph.training.binary.statistics import estimate_statistics
from prunegraph.training.binary.tuning import ActivationsFirst, Tuning
from prunegraph.training.binary.update import SampleSplit, Update, alternate_update

__all__ = [
    "ActivationsFirst",
    "BinarizeOptions",
    "BinarizeResult",
    "CompressionRatios",
    "Quantizer",
    "SampleSplit",
    "Tuning",
    "Update",
    "alternate_update",
    "binarize",
    "compression",
    "estimate_statistics",
    "lower",
    "measured",
    "to_binary",
    "trainable",
]
