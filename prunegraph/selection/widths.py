"""Multiples of channels that runtimes like, by the runtime's name: what `--round-to NAME` stands for.

They say what kernels and memory layouts of a runtime are made for, by the runtime's own documents. `--round-to auto`
measures instead, where the runtime is here.

tensorrt
    16. Tensor Cores take 16 elements of int8 and 8 of float16 at a time (NVIDIA, TensorRT best practices, "Optimizing
    for Tensor Cores"); its formats for float16 pad channels to 8, the one for int8 to 32 (developer guide, "I/O
    formats").
openvino
    16. Its CPU plug-in runs oneDNN, whose blocked layouts hold 16 channels with AVX-512 and 8 with AVX2 (oneDNN
    developer guide, "Understanding memory formats": nChw16c, nChw8c).
ncnn
    8. Values are packed by 4 channels in float32 and by 8 in int8 and float16 (ncnn, docs/developer-guide/
    element-packing.md); what does not divide is not packed.
qnn
    32. Qualcomm's Hexagon Tensor Processor rounds channels up to multiples of 32 (Qualcomm AI Engine Direct, HTP
    guidelines, "Number of channels" and "Avoid low depth activations").
coreml
    32. The Neural Engine pads the last axis to 64 bytes, 32 values of float16 (Apple, "Deploying Transformers on the
    Apple Neural Engine", 2022). Apple gives no figure for other axes.
litert
    8. The GPU delegate slices tensors into 4 channels (LiteRT, "GPU delegates", tips on performance); XNNPACK, which
    runs on the CPU, computes 8 outputs at a time in most of its kernels (names such as f32-gemm-6x8).
"""

from __future__ import annotations

#: What `round_to` may be besides a number and "auto".
PRESETS = {
    "tensorrt": 16,
    "openvino": 16,
    "ncnn": 8,
    "qnn": 32,
    "coreml": 32,
    "litert": 8,
}


def multiple(round_to: int | str) -> int | str:
    """A preset as its number; all else as it is."""
    return PRESETS.get(round_to, round_to) if isinstance(round_to, str) else round_to
