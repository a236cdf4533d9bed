"""Multiples of channels that runtimes like, by the runtime's name: what `--round-to NAME` stands for.

They say what kernels and memory layouts of a runtime are made for, by the runtime's own documents. `--round-to auto`
measures instead, where the runtime is here.

tensorrt
    32. The suggested alignment of input and output channels for Tensor Cores is 32 elements of int8, 8 of
    float16 (16 with sparsity) and 4 of TF32; TensorRT pads to it otherwise (NVIDIA, TensorRT documentation,
    "Optimizing for Tensor Cores",
    https://docs.nvidia.com/deeplearning/tensorrt/11.0.0/performance/optimization.html). For float16 alone give
    8.
openvino
    16. Its CPU plug-in runs oneDNN, whose activations lie in blocks of 16 channels with AVX-512 (nChw16c) and
    of 8 with AVX2 (oneDNN developer guide, "Understanding Memory Formats",
    https://uxlfoundation.github.io/oneDNN/dev_guide_understanding_memory_formats.html; which one is taken when
    is said by its maintainers, https://github.com/uxlfoundation/oneDNN/issues/702 and 711).
ncnn
    8. On ARM, 4 float32 or float16 values and 8 int8 values are packed along the channels; what does not divide
    is not packed, or filled with zeros (ncnn, "element packing",
    https://github.com/Tencent/ncnn/blob/master/docs/developer-guide/element-packing.md).
qnn
    32. Qualcomm asks for channels in multiples of 32, to which its Hexagon Tensor Processor rounds them up
    (Qualcomm AI Engine Direct SDK, HTP guidelines, "Number of channels" and "Avoid low depth Activations",
    https://docs.qualcomm.com/doc/80-63442-10/topic/htp_guidelines_channels.html and
    htp_guidelines_low_depth_activations.html).
coreml
    32. The Neural Engine wants the last axis of inputs and outputs aligned to 64 bytes, 32 values of float16,
    and pads it otherwise (Apple, "Deploying Transformers on the Apple Neural Engine",
    https://machinelearning.apple.com/research/neural-engine-transformers). That axis holds channels where they
    come last, as in most transformers; in the layout (B, C, 1, S) that Apple advises it is the sequence. No
    figure of Apple's for channels elsewhere, as in convolutional networks, was found.
litert
    8. The GPU delegate slices tensors into 4 channels, so that 5 cost as much as 8 (TensorFlow Lite, "GPU
    delegate", tips for optimization, https://www.tensorflow.org/lite/performance/gpu). On the CPU, XNNPACK
    computes 8 outputs at a time in float32 on ARM, 16 in float16 and, with dot products, in int8 on 64-bit ARM
    (no document says so: names of its kernels, such as 6x8 and 4x16c4, in src/configs/gemm-config.c,
    https://github.com/google/XNNPACK). For these alone give 16.
"""

from __future__ import annotations

#: What `round_to` may be besides a number and "auto".
PRESETS = {
    "tensorrt": 32,
    "openvino": 16,
    "ncnn": 8,
    "qnn": 32,
    "coreml": 32,
    "litert": 8,
}


def multiple(round_to: int | str) -> int | str:
    """A preset as its number; all else as it is."""
    return PRESETS.get(round_to, round_to) if isinstance(round_to, str) else round_to
