"""Independent pieces of work side by side: in this process, in worker processes, on a cluster of Dask or Ray.

What all pieces need (model, data, reference outputs) lies in one folder of files. A worker
opens it once; then it gets small items. Processes of this machine read the folder itself, a
cluster gets its files once, as bytes. Every piece runs with one thread, so a result does not
depend on where it was made. A worker that dies costs only its own piece, which is tried again.
"""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prunegraph.errors import ClusterError, MissingExtraError, PrunegraphError
from prunegraph.runtime.session import default_threads
from prunegraph.runtime.workers import stopped_quietly

if TYPE_CHECKING:
    from distributed import Client, Future

#: What a worker does with an item, and how it is made from the folder. Both the function that
#: opens and the items have to be picklable.
Work = Callable[[Any], Any]
Opener = Callable[[Path], Work]

#: How often work whose workers died is started again.
ATTEMPTS = 3

#: Folders a process keeps open.
KEPT = 2

#: Seconds to reach a cluster, between two looks at its workers, and without any worker before giving up.
CONNECT = 5.0
LOOK = 5.0
PATIENCE = 60.0

#: What the address of a Ray cluster begins with.
RAY = "ray:"

#: How a scheduler is addressed: protocol://host:port.
ADDRESS = re.compile(r"[a-z]+://([^\s/:]+|\[[0-9a-f:.]+\]):\d+/?", re.IGNORECASE)


class Pool(Protocol):
    """Workers that have opened the same folder. `width` items are worked on at a time."""

    width: int

    def map(self, items: Sequence[Any]) -> Iterator[Any]:
        """Results in the order of the items, as they come.

        Raises:
            PrunegraphError: what a piece of work raised.
            ClusterError: workers kept dying, or there are none.
        """


@contextmanager
def pool(
    opener: Opener, folder: Path, *, jobs: int | None = None, cluster: str | None = None
) -> Iterator[Pool]:
    """Workers that do `opener(folder)(item)`.

    Args:
        opener: makes the work from the folder, once in each worker.
        folder: what the work needs, in files; read when the first work is done.
        jobs: worker processes; None is one for each core, 1 works in this process.
        cluster: address of a Dask scheduler, "tcp://host:port", or of a Ray cluster: "ray:host:port", "ray:auto" for
            the one that runs here, "ray://host:port" through Ray's client; `jobs` says nothing then.

    Raises:
        ClusterError: the cluster cannot be reached within seconds, or has no workers.
        MissingExtraError: Dask or Ray is not installed.
    """
    if cluster is not None and cluster.startswith(RAY):
        with _ray_cluster(opener, folder, cluster) as workers:
            yield workers
        return
    if cluster is not None:
        with _cluster(opener, folder, cluster) as match:
            yield match
        return
    import joblib

    width = jobs or joblib.cpu_count()
    yield _Processes(opener, folder, width) if width > 1 else _Here(opener, folder)


def check_cluster(address: str | None) -> None:
    """Raise ClusterError for what is no address of a cluster; nothing is connected."""
    if address is None or address.startswith(RAY) or ADDRESS.fullmatch(address):
        return
    raise ClusterError(
        f"{address!r} is no address of a Dask scheduler; give tcp://host:port"
    )


# -- in a worker ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """An error on its way from a worker: exceptions with arguments of their own do not survive pickling."""

    kind: type[PrunegraphError]
    text: str

    def again(self) -> PrunegraphError:
        error = self.kind.__new__(self.kind)
        error.args = (self.text,)
        return error


def _result(value: Any) -> Any:
    if isinstance(value, _Failure):
        raise value.again()
    return value


@dataclass(eq=False)
class _Opened:
    """Work that is open in this process."""

    work: Work


#: The work this process has opened last, by name.
_opened: dict[str, _Opened] = {}
_lock = threading.Lock()


def _open(name: str, make: Callable[[], _Opened]) -> _Opened:
    with _lock:
        if name not in _opened:
            # What another thread still does with old work keeps that alive.
            while len(_opened) >= KEPT:
                del _opened[next(iter(_opened))]
            _opened[name] = make()
        return _opened[name]


def _call(opener: Opener, folder: Path, item: Any) -> Any:
    """One piece of work, in a worker on this machine."""
    return _do(str(folder), lambda: _Opened(opener(folder)), item)


def _call_remote(opener: Opener, name: str, files: dict[str, bytes], item: Any) -> Any:
    """One piece of work, in a worker anywhere: the folder comes as bytes and is unpacked once."""

    from distributed import get_worker

    # Dask clears up the folder of a worker that was killed.
    return _unpacked(opener, name, files, item, get_worker().local_directory)


def _call_ray(opener: Opener, name: str, files: dict[str, bytes], item: Any) -> Any:
    """One piece of work, in a worker of Ray."""
    return _unpacked(opener, name, files, item, None)


def _unpacked(
    opener: Opener, name: str, files: dict[str, bytes], item: Any, base: str | None
) -> Any:
    """One piece of work on files that come as bytes, which are unpacked once below a folder of this machine."""

    def make() -> _Opened:
        folder = Path(tempfile.mkdtemp(prefix="prunegraph-", dir=base))
        for file, content in files.items():
            (folder / file).write_bytes(content)
        created = _Opened(opener(folder))
        weakref.finalize(created, shutil.rmtree, folder, ignore_errors=True)
        return created

    return _do(name, make, item)


def _do(name: str, make: Callable[[], _Opened], item: Any) -> Any:
    try:
        with default_threads(1):
            opened = _open(name, make)
            return opened.work(item)
    except PrunegraphError as error:
        return _Failure(type(error), str(error))


# -- in this process, and in processes of this machine ------------------------------------


class _Here:
    """No workers: one item after the other in this process."""

    width = 1

    def __init__(self, opener: Opener, folder: Path):
        self._opener, self._folder = opener, folder
        self._work: Work | None = None

    def map(self, items: Sequence[Any]) -> Iterator[Any]:
        for item in items:
            yield self._call(item)

    def _call(self, item: Any) -> Any:
        with default_threads(1):
            self._work = self._work or self._opener(self._folder)
            return self._work(item)


class _Processes:
    """Worker processes of this machine, by joblib (loky)."""

    def __init__(self, opener: Opener, folder: Path, width: int):
        self._opener, self._folder, self.width = opener, folder, width

    def map(self, items: Sequence[Any]) -> Iterator[Any]:
        import joblib

        done = 0
        for _ in range(ATTEMPTS):
            # Without batches: pieces are long, and one at a time is what can be lost.
            with joblib.parallel_config("loky", n_jobs=self.width, inner_max_num_threads=1):
                parallel = joblib.Parallel(batch_size=1, return_as="generator")
                values = parallel(
                    joblib.delayed(_call)(self._opener, self._folder, item)
                    for item in items[done:]
                )
                try:
                    for value in values:
                        done += 1
                        yield _result(value)
                    return
                except BrokenProcessPool:
                    continue
                finally:
                    _close(values)
        raise ClusterError(
            f"worker processes were killed {ATTEMPTS} times (out of memory?); use fewer of them (--jobs) or less data"
        )


def _close(values: Generator[Any, None, None]) -> None:
    """Stop what still runs after an error, or when nobody wants more; joblib warns of the work that is lost."""
    with warnings.catch_warnings(), stopped_quietly():
        warnings.simplefilter("ignore", UserWarning)
        values.close()


# -- on a cluster -------------------------------------------------------------------------


@contextmanager
def _cluster(opener: Opener, folder: Path, address: str) -> Iterator[Pool]:
    client = _connect(address)
    try:
        yield _Cluster(opener, folder, client, address)
    finally:
        client.close()


def _connect(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError:
        raise MissingExtraError("--cluster", "dask.distributed", "dask") from None
    # A client that fails on the address itself is left half made, and hangs when the process ends.
    check_cluster(address)
    try:
        return Client(address, timeout=CONNECT, set_as_default=False)
    except Exception as error:  # whatever a comm, a name service or a TLS layer raises
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ClusterError(
            f"no Dask scheduler answers at {address!r} within {CONNECT:g} s ({reason})"
        ) from error


class _Cluster:
    """Workers of a Dask cluster. Dask repeats what a dead worker had; files lost with all workers are sent again."""

    def __init__(self, opener: Opener, folder: Path, client: Client, address: str):
        self._opener, self._folder, self._client, self._address = (
            opener,
            folder,
            client,
            address,
        )
        self.width = sum(self._threads().values())
        if not self.width:
            raise ClusterError(
                f"the Dask cluster at {address!r} has no workers; start some with `dask worker`"
            )
        self._files: Future | None = None

    def map(self, items: Sequence[Any]) -> Iterator[Any]:
        attempts = 0
        waiting = deque(items)
        if self._files is None:
            self._share()
        futures = self._submit(waiting)
        while waiting:
            try:
                value = self._wait(futures[0])
            except CancelledError as error:
                attempts += 1
                if attempts >= ATTEMPTS:
                    raise ClusterError(
                        f"the Dask cluster at {self._address!r} lost its workers {attempts} times"
                    ) from error
                self._share()
                futures = self._submit(waiting)
                continue
            waiting.popleft()
            futures.popleft()
            yield _result(value)

    def _share(self) -> None:
        files = {path.name: path.read_bytes() for path in self._folder.iterdir()}
        self._name = uuid.uuid4().hex
        try:
            [self._files] = self._client.scatter([files], broadcast=True, hash=False)
        except (TimeoutError, OSError) as error:
            raise ClusterError(
                f"the Dask cluster at {self._address!r} takes no data: {error}"
            ) from error

    def _submit(self, items: deque[Any]) -> deque[Future]:
        call = partial(
            self._client.submit,
            _call_remote,
            self._opener,
            self._name,
            self._files,
            pure=False,
        )
        return deque(call(item) for item in items)

    def _wait(self, future: Future) -> Any:
        from distributed import KilledWorker

        alone = 0.0
        while True:
            start = time.monotonic()
            try:
                return future.result(timeout=LOOK)
            except TimeoutError:
                if future.done():  # the work's own
                    raise
                alone = 0.0 if self._threads() else alone + time.monotonic() - start
            except ImportError as error:
                raise ClusterError(
                    f"a worker of {self._address!r} lacks a package: {error}"
                ) from error
            except KilledWorker as error:
                raise ClusterError(
                    f"a piece of work killed worker after worker (out of memory?): {error}"
                ) from error
            if alone > PATIENCE:
                raise ClusterError(
                    f"the Dask cluster at {self._address!r} has had no workers for {PATIENCE:g} s"
                )

    def _threads(self) -> dict[str, int]:
        try:
            result: dict[str, int] = self._client.nthreads()
        except Exception as error:
            raise ClusterError(
                f"the Dask scheduler at {self._address!r} does not answer any more: {error}"
            ) from error
        return result


# -- on a cluster of Ray ----------------------------------------------------------------------


@contextmanager
def _ray_cluster(opener: Opener, folder: Path, address: str) -> Iterator[Pool]:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("--cluster", "ray", "ray") from None
    is_ours = not ray.is_initialized()
    if is_ours:
        where = address if "://" in address else address.removeprefix(RAY)
        try:
            _knock(where)
            ray.init(address=where, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # whatever a socket or gRPC raises
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise ClusterError(
                f"no Ray cluster answers at {address!r} ({reason})"
            ) from error
    try:
        yield _RayCluster(opener, folder, address)
    finally:
        if is_ours:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at host:port: Ray itself takes minutes to say so."""
    host, _, port = address.rpartition("//")[2].rstrip("/").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()


class _RayCluster:
    """Workers of a Ray cluster. Ray itself repeats what a dead worker had."""

    def __init__(self, opener: Opener, folder: Path, address: str):
        import ray

        self._opener, self._folder, self._address = opener, folder, address
        self.width = int(ray.cluster_resources().get("CPU", 0))
        if not self.width:
            raise ClusterError(f"the Ray cluster at {address!r} has no processors")
        self._files: Any = None

    def map(self, items: Sequence[Any]) -> Iterator[Any]:
        import ray

        if self._files is None:
            files = {path.name: path.read_bytes() for path in self._folder.iterdir()}
            self._name, self._files = uuid.uuid4().hex, ray.put(files)
        call = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_call_ray)
        waiting = deque(
            call.remote(self._opener, self._name, self._files, item) for item in items
        )
        while waiting:
            try:
                value = ray.get(waiting.popleft())
            except ImportError as error:
                raise ClusterError(
                    f"a worker of {self._address!r} lacks a package: {error}"
                ) from error
            except ray.exceptions.WorkerCrashedError as error:
                raise ClusterError(
                    f"a piece of work killed worker after worker (out of memory?): {error}"
                ) from error
            except ray.exceptions.RaySystemError as error:
                raise ClusterError(
                    f"the Ray cluster at {self._address!r} does not answer any more: {error}"
                ) from error
            yield _result(value)
