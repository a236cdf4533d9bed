"""Operators that pin all they touch, each with a reason a person can act on."""

from __future__ import annotations

from prunegraph.labels.reasons import Kind
from prunegraph.operators import OperatorInfo, describe
from prunegraph.ops.rule import register_barriers

_POSITIONS = "its result is positions in the data"
_SEQUENCE = "sequences are followed through SplitToSequence and SequenceAt only"
_TEXT = "it works on text"
_LOSS = "it is a loss"

register_barriers(
    {
        "NonZero": _POSITIONS,
        "NonMaxSuppression": _POSITIONS,
        "Unique": _POSITIONS,
        "Compress": "which elements stay is decided at run time",
        "RoiAlign": "regions are decided at run time",
        "MaxRoiPool": "regions are decided at run time",
        "MaxUnpool": "it reads positions in the whole tensor",
        "Multinomial": "it draws positions at random",
        "ReverseSequence": "lengths are decided at run time",
        "TensorScatter": "positions are decided at run time",
        **dict.fromkeys(
            (
                "SequenceConstruct",
                "SequenceEmpty",
                "SequenceErase",
                "SequenceInsert",
                "SequenceLength",
                "ConcatFromSequence",
                "Optional",
                "OptionalGetElement",
                "OptionalHasElement",
            ),
            _SEQUENCE,
        ),
        **dict.fromkeys(
            (
                "StringConcat",
                "StringNormalizer",
                "StringSplit",
                "RegexFullMatch",
                "TfIdfVectorizer",
                "LabelEncoder",
            ),
            _TEXT,
        ),
        "NegativeLogLikelihoodLoss": _LOSS,
        "SoftmaxCrossEntropyLoss": _LOSS,
        "DFT": "it transforms the axis as a whole",
        "STFT": "it transforms the axis as a whole",
        "Det": "it takes rows and columns as a matrix",
        "AffineGrid": "its result is positions",
        "CenterCropPad": "it crops to a size given at run time",
        "ImageDecoder": "it decodes images",
        "BitCast": "it takes several elements as one",
        "Shape": "the shape of its input is not known before the model runs",
        "Size": "the shape of its input is not known before the model runs",
    }
)

register_barriers(
    {"SequenceMap": "control flow decides at run time what is read"},
    kind=Kind.CONTROL_FLOW,
)

describe(OperatorInfo(numbers=(1,)), "AffineGrid", "CenterCropPad")
describe(OperatorInfo(is_random=True), "Multinomial")
describe(OperatorInfo(decides=True), "NonMaxSuppression", "NonZero")
describe(OperatorInfo(lengths=1), "ReverseSequence")
describe(OperatorInfo(unread=(0,)), "Shape", "Size")
