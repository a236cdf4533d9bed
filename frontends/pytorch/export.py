"""Modules to graphs, by PyTorch's own exporters."""

from __future__ import annotations

import io
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch

from prunegraph.errors import MissingExtraError, ModelError
from prunegraph.frontends.fold import fold
from prunegraph.frontends.pytorch import arguments
from prunegraph.graph import onnx_io
from prunegraph.graph.model import Graph
from prunegraph.operators import is_identity

#: Written by both exporters, read by every ONNX Runtime that the project supports.
OPSETS = {"dynamo": 20, "torchscript": 17}

#: Metadata of the newer exporter that name files of this machine, or modules by the way they were imported.
PLACES = frozenset(
    {"namespace", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.stack_trace"}
)

#: Parts of names in an exported program that are pickled objects, or compiled code.
CODE = ("opaque_obj_", "custom_obj_", "data/aotinductor/", "data/executorch/")

#: With this in the environment, PyTorch unpickles tensors and nothing else.
TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def from_module(
    module: torch.nn.Module, inputs: Any, exporter: str | None, dynamic_shapes: Any
) -> Graph:
    """A Graph of a module; see `prunegraph.frontends.pytorch.load`."""
    label = type(module).__name__
    if exporter not in (None, *OPSETS):
        raise ModelError(
            f"{label}: exporter must be one of {', '.join(OPSETS)}, got {exporter!r}"
        )
    args = arguments.arguments(module, inputs)
    failed: dict[str, str] = {}
    for name in OPSETS if exporter is None else (exporter,):
        try:
            with _evaluating(module), _quiet():
                created = (
                    _dynamo(module, args, dynamic_shapes)
                    if name == "dynamo"
                    else _torchscript(module, args)
                )
                graph = _graph(created, module, label)
        except MissingExtraError:
            raise
        except Exception as error:
            failed[name] = _first_line(error)
            continue
        if failed:
            reason = failed["dynamo"]
            warnings.warn(
                f"{label}: exported by TorchScript, because the newer exporter failed: {reason}",
                stacklevel=4,
            )
        return graph
    messages = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    raise ModelError(f"{label}: cannot be exported: {messages}")


def from_file(path: str) -> Graph:
    """A Graph of an exported program. Raises ModelError."""
    try:
        with _without_pickles(path):
            program = torch.export.load(path)
        with _quiet():
            created = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSETS["dynamo"],
            )
    except ImportError as error:
        raise _missing(error) from error
    except Exception as error:
        raise ModelError(f"{path}: cannot be exported: {_first_line(error)}") from error
    assert created is not None
    model, sources = fold(
        _without_places(created.model_proto), *_named(dict(program.state_dict))
    )
    return onnx_io.from_model(model, source=path, sources=sources)


@contextmanager
def _without_pickles(path: str) -> Iterator[None]:
    """Nothing but tensors is unpickled meanwhile: PyTorch's reader would fall back to unpickling anything.

    Raises:
        ModelError: the file holds objects, which are pickles.
    """
    with zipfile.ZipFile(path) as archive:
        held = next(
            (n for n in archive.namelist() if any(part in n for part in CODE)), None
        )
    if held is not None:
        raise ModelError(
            f"{path}: holds {held!r}, a pickled object or compiled code; export it without"
        )
    before = os.environ.get(TENSORS_ONLY)
    os.environ[TENSORS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TENSORS_ONLY]
        else:
            os.environ[TENSORS_ONLY] = before


def _graph(model: onnx.ModelProto, module: torch.nn.Module, label: str) -> Graph:
    tensors = _state(module)
    _restore_equal_tensors(model, tensors)
    model, sources = fold(_without_places(model), *_named(tensors))
    return onnx_io.from_model(model, source=label, sources=sources)


def _without_places(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place, without names of places: one module is one model, whoever loads it from where."""
    nodes = [
        *model.graph.node,
        *(node for function in model.functions for node in function.node),
    ]
    for node in nodes:
        kept = [entry for entry in node.metadata_props if entry.key not in PLACES]
        if len(kept) < len(node.metadata_props):
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
    return model


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by all of their names, also buffers that a state_dict leaves out."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def _named(
    tensors: dict[str, torch.Tensor],
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of tensors, and for all names the first one of the same tensor: modules share parameters."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(value), name) for name, value in tensors.items()}
    return {name: tuple(tensors[name].shape) for name in first.values()}, names


def _dynamo(
    module: torch.nn.Module, args: tuple[Any, ...], dynamic_shapes: Any
) -> onnx.ModelProto:
    if dynamic_shapes is None and arguments.batch(args) is not None:
        args = arguments.doubled(args) if arguments.batch(args) == 1 else args
        free = torch.export.Dim.AUTO
        dynamic_shapes = torch.utils._pytree.tree_map(
            lambda leaf: {0: free} if isinstance(leaf, torch.Tensor) else None, tuple(args)
        )
    try:
        created = torch.onnx.export(
            module,
            args,
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes=dynamic_shapes,
            input_names=arguments.names(module, args),
            opset_version=OPSETS["dynamo"],
        )
    except ImportError as error:
        raise _missing(error) from error
    assert created is not None
    return created.model_proto


def _torchscript(module: torch.nn.Module, args: tuple[Any, ...]) -> onnx.ModelProto:
    names, buffer = arguments.names(module, args), io.BytesIO()
    free = (
        {name: {0: "batch"} for name in names}
        if arguments.batch(args) is not None
        else None
    )
    torch.onnx.export(
        module,
        args,
        buffer,
        dynamo=False,
        input_names=names,
        dynamic_axes=free,
        opset_version=OPSETS["torchscript"],
        # Both keep BatchNormalization and the names of parameters.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    return onnx.load_from_string(buffer.getvalue())


def _restore_equal_tensors(
    model: onnx.ModelProto, tensors: dict[str, torch.Tensor]
) -> None:
    """Give parameters that merely have equal values back their own weights: the exporter made one of them."""
    kept = []
    for node in model.graph.node:
        name = node.output[0] if is_identity(node) else ""
        first = tensors.get(node.input[0]) if name else None
        if name in tensors and (
            first is None or first.data_ptr() != tensors[name].data_ptr()
        ):
            value = tensors[name].detach().cpu().contiguous().numpy()
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """The module in evaluation mode, without fused operators that no exporter knows, and afterwards as it was."""
    was = {each: each.training for each in module.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for each, training in was.items():
            each.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say to their own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _missing(error: ImportError) -> Exception:
    return MissingExtraError("PyTorch's exporter", error.name or str(error), "torch")


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"
