"""Real MXNet, for what the front end is compared with; runs in an environment of its own.

    python3.11 -m venv v && v/bin/pip install mxnet==1.9.1 numpy==1.23.5
    v/bin/python benchmarks/mxnet_real.py zoo FOLDER      exports the architectures of the model zoo
    v/bin/python benchmarks/mxnet_real.py run FOLDER...   runs what is in folders

A folder holds NAME-symbol.json, NAME-0000.params and input*.npy; `run` writes output0.npy, ...
Imports nothing of prunegraph: numpy 1.23 and MXNet do not go with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mxnet as mx  # type: ignore[import-not-found]
import numpy as np

ZOO = {
    "alexnet": 224,
    "densenet121": 224,
    "inceptionv3": 299,
    "mobilenet0.25": 224,
    "mobilenet1.0": 224,
    "mobilenetv2_0.25": 224,
    "mobilenetv2_1.0": 224,
    "resnet18_v1": 224,
    "resnet18_v2": 224,
    "resnet50_v1": 224,
    "resnet50_v2": 224,
    "squeezenet1.1": 224,
    "vgg11_bn": 224,
}


def export(name: str, size: int, folder: Path) -> None:
    """A network of the zoo with random weights and random statistics, also where gamma is fixed."""
    mx.random.seed(0)
    net = mx.gluon.model_zoo.vision.get_model(name)
    net.initialize(mx.init.Xavier())
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    net(mx.nd.array(image))
    rng = np.random.default_rng(1)
    for key, param in net.collect_params().items():
        if key.endswith(("gamma", "running_var")):
            param.set_data(mx.nd.array(rng.uniform(0.5, 1.5, param.shape)))
        elif key.endswith(("beta", "running_mean")):
            param.set_data(mx.nd.array(rng.normal(0, 0.1, param.shape)))
    folder.mkdir(parents=True, exist_ok=True)
    net.hybridize()
    net(mx.nd.array(image))
    net.export(str(folder / "model"))
    np.save(folder / "input.npy", image)


def run(folder: Path) -> None:
    """The outputs of the network in a folder."""
    path = next(folder.glob("*-symbol.json"))
    symbol = mx.sym.load(str(path))
    stored = mx.nd.load(str(next(folder.glob("*.params"))))
    stored = stored if isinstance(stored, dict) else {}
    arguments = {key[4:]: value for key, value in stored.items() if key.startswith("arg:")}
    states = {key[4:]: value for key, value in stored.items() if key.startswith("aux:")}
    files = sorted(folder.glob("input*.npy"))
    free = [name for name in symbol.list_arguments() if name not in arguments]
    for file in files:
        name = file.stem[len("input_") :] or ("data" if "data" in free else free[0])
        arguments[name] = mx.nd.array(np.load(file))
    shapes, _, _ = symbol.infer_shape(**{k: v.shape for k, v in arguments.items()})
    for name, shape in zip(
        symbol.list_arguments(), shapes, strict=True
    ):  # labels and initial states
        arguments.setdefault(name, mx.nd.zeros(shape))
    executor = symbol.bind(mx.cpu(), arguments, aux_states=states)
    for position, output in enumerate(executor.forward(is_train=False)):
        np.save(folder / f"output{position}.npy", output.asnumpy())


def main(command: str, *folders: str) -> None:
    if command == "zoo":
        for name, size in ZOO.items():
            export(name, size, Path(folders[0]) / name)
            run(Path(folders[0]) / name)
            print(name, flush=True)
    for folder in folders if command == "run" else ():
        run(Path(folder))
        print(folder, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
