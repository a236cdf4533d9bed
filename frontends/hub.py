"""Models on the Hugging Face Hub: `hf://org/name`, with a revision behind `@` and a file behind `/`.

What was fetched once is read from the hub's cache, without a network too.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from prunegraph.errors import MissingExtraError, ModelError

_ADDRESS = re.compile(
    r"hf://(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^/@]+))?(/(?P<file>.+))?"
)

#: Files that stand for the model where a repository has several, the first that is there.
USUAL = ("model.onnx", "onnx/model.onnx")


def is_address(text: str) -> bool:
    """Tell whether a source is on the hub."""
    return text.startswith("hf://")


def fetch(address: str) -> str:
    """Path of a model's file in the hub's cache, with its external data beside it.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ModelError: the address is none, it cannot be fetched, or it has several models, or none.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ModelError(
            f"{address}: no address on the hub; give hf://org/name, hf://org/name/file.onnx or hf://org/name@revision"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError("hf://", "huggingface_hub", "hub") from None
    repo, revision, file = match["repo"], match["revision"], match["file"]
    try:
        file = file or _only(address, _files(repo, revision))
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=[f"{file}*"]
        )
    except ModelError:
        raise
    except Exception as error:  # whatever the network, the hub or its cache raises
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ModelError(f"{address}: cannot be fetched: {reason}") from error
    path = Path(folder) / file
    if not path.is_file():
        raise ModelError(f"{address}: has no file {file!r}")
    return str(path)


def _files(repo: str, revision: str | None) -> list[str]:
    """Names of a repository's files; without a network, of those that are in the cache."""
    import huggingface_hub

    try:
        return list(huggingface_hub.HfApi().list_repo_files(repo, revision=revision))
    except Exception:  # offline, or the hub does not answer: what was fetched before
        folder = Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, local_files_only=True
            )
        )
        return [
            each.relative_to(folder).as_posix()
            for each in folder.rglob("*")
            if each.is_file()
        ]


def _only(address: str, files: list[str]) -> str:
    """The one model among files."""
    models = sorted(file for file in files if PurePosixPath(file).suffix == ".onnx")
    usual = next((file for file in USUAL if file in models), None)
    if usual is not None or len(models) == 1:
        return usual or models[0]
    if not models:
        raise ModelError(f"{address}: there is no .onnx file in it")
    raise ModelError(
        f"{address}: has {len(models)} models; give one, as in {address}/{models[0]}: {', '.join(models)}"
    )
