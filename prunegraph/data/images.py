"""Images as a stream of arrays: decoded by worker processes, in constant memory, each of them once.

What an image is after its geometry (pixels of 8 bits, and where its boxes lie) is kept in a temporary file,
so that what reads samples many times decodes them once. `TMPDIR` says where the file lies.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import closing, suppress
from itertools import islice, pairwise

import numpy as np

from prunegraph.data.decoding import need_pillow
from prunegraph.data.image_input import ImageInput
from prunegraph.data.listing import Listing
from prunegraph.data.pixel_store import PixelStore
from prunegraph.data.preprocess import Preprocessing
from prunegraph.data.samples import Samples8, Work, decode
from prunegraph.errors import DataError
from prunegraph.runtime.layout import LABELS, Batch, Layout, Shape
from prunegraph.runtime.sources import CHUNK
from prunegraph.runtime.workers import stopped_quietly

#: Seconds of decoding from which on workers are worth their start.
WORTH = 10

#: Worker processes at most, where nobody says how many.
MOST_WORKERS = 8

#: What says how reading goes on.
Progress = Callable[[str], None]


class ImageSource:
    """Images of a listing as an input of a model takes them; a source that can be read in any order.

    Args:
        listing: images and what they are labelled with.
        chain: what becomes of an image.
        target: the input that takes them.
        source: what to call the data in messages.
        workers: processes that decode; 0 decodes in this one. By default as many as there are cores, where there
            are many images.
        progress: told how many images are decoded, and how long the rest takes.

    Raises:
        DataError: an image cannot be read, or the input does not take what becomes of it.
        MissingExtraError: Pillow is not installed.
    """

    whole = False

    def __init__(
        self,
        listing: Listing,
        chain: Preprocessing,
        target: ImageInput,
        source: str,
        *,
        workers: int | None = None,
        progress: Progress | None = None,
    ):
        need_pillow()
        self.listing, self.chain, self.target = listing, chain, target
        self.source, self.workers, self.progress = source, workers, progress
        first = decode(self._work(np.arange(1)))
        self._size = first.pixels.shape[1:]
        self._check_size(listing.images[0].name)
        self._rows: Shape = (listing.most, 5) if listing.has_boxes else ()
        chain.values(first.pixels, target.dtype)
        self._store: PixelStore | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_store": None, "progress": None}

    def _check_size(self, name: str) -> None:
        height, width, _ = self._size
        if self.target.size not in (None, (height, width)):
            raise DataError(
                f"{name}: is {width} x {height} pixels after preprocessing ({self.chain}), but {self.target}"
            )

    # -- as a source ------------------------------------------------------------------------

    def shapes(self) -> Mapping[str, Shape]:
        count = len(self.listing)
        height, width, channels = self._size
        sample = (
            (channels, height, width)
            if self.chain.layout == "nchw"
            else (height, width, channels)
        )
        result: dict[str, Shape] = {self.target.name: (count, *sample)}
        if self.listing.targets is not None:
            result[LABELS] = (count, *self._rows)
        return result

    def read(self, layout: Layout) -> Iterator[Batch]:
        starts = [*range(0, len(self.listing), CHUNK), len(self.listing)]
        parts = [np.arange(start, end) for start, end in pairwise(starts)]
        with closing(self._decoded(parts)) as stream:
            for numbers, samples in zip(parts, stream, strict=True):
                yield self._batch(numbers, samples)

    def count(self) -> int:
        return len(self.listing)

    @property
    def classes(self) -> Sequence[str]:
        return self.listing.classes

    def labels(self) -> np.ndarray | None:
        targets = self.listing.targets
        if targets is None:
            return None
        if not self.listing.has_boxes:
            return np.array(targets, np.int64)
        parts = self.read(Layout({}))
        return np.concatenate([part[LABELS] for part in parts])

    def take(self, numbers: np.ndarray) -> Batch:
        [samples] = self._decoded([numbers], workers=0)
        return self._batch(numbers, samples)

    def prepare(self) -> None:
        """Decode all images, by worker processes, so that the file of pixels has them."""
        if self._kept().has_room:
            for _ in self.read(Layout({})):
                pass

    def _batch(self, numbers: np.ndarray, samples: Samples8) -> Batch:
        result = {self.target.name: self.chain.values(samples.pixels, self.target.dtype)}
        if self.listing.has_boxes:
            result[LABELS] = samples.rows
        elif self.listing.targets is not None:
            result[LABELS] = np.array([self.listing.targets[n] for n in numbers], np.int64)
        return result

    # -- decoding ---------------------------------------------------------------------------

    def _work(self, numbers: np.ndarray) -> Work:
        listing = self.listing
        boxes = listing.targets if listing.has_boxes else None
        return Work(
            [listing.images[n] for n in numbers],
            [boxes[n] for n in numbers] if boxes is not None else None,
            listing.most,
            self.chain,
        )

    def _kept(self) -> PixelStore:
        if self._store is None:
            self._store = PixelStore(len(self.listing), self._size, self._rows)
        return self._store

    def _decoded(
        self, parts: Sequence[np.ndarray], workers: int | None = None
    ) -> Generator[Samples8, None, None]:
        """Samples of each part: from the file of pixels, else decoded and put there."""
        store = self._kept()
        # Said now: another reader may put images there while this one waits.
        known = [store.has(part) for part in parts]
        missing = [part for part, there in zip(parts, known, strict=True) if not there]
        images, done, started = sum(map(len, missing)), 0, time.monotonic()
        with closing(self._by_workers(missing, workers)) as stream:
            for part, there in zip(parts, known, strict=True):
                if there and store.has(part):
                    yield store.read(part)
                    continue
                samples = decode(self._work(part)) if there else next(stream)
                self._check(samples, part)
                store.write(part, samples)
                done += len(part)
                self._tell(done, images, time.monotonic() - started)
                yield samples

    def _check(self, samples: Samples8, part: np.ndarray) -> None:
        if samples.pixels.shape[1:] == self._size:
            return
        (height, width), (h, w) = samples.pixels.shape[1:3], self._size[:2]
        raise DataError(
            f"{self.listing.images[part[0]].name}: becomes {width} x {height} pixels, and "
            f"{self.listing.images[0].name} {w} x {h}: give --preprocess with one size for all, as resize={h}x{w}"
        )

    def _by_workers(
        self, parts: Sequence[np.ndarray], workers: int | None
    ) -> Generator[Samples8, None, None]:
        """Decode parts in their order, a few ahead of the one that is asked for."""
        if not parts:
            return
        # The first part is decoded here: many only look at that, and it shows how long the rest takes.
        started = time.monotonic()
        yield decode(self._work(parts[0]))
        wanted = workers
        if wanted is None:
            wanted = self._wanted((time.monotonic() - started) * (len(parts) - 1))
        if not wanted:
            yield from (decode(self._work(part)) for part in parts[1:])
            return
        yield from self._pooled(parts[1:], wanted)

    def _pooled(self, parts: Sequence[np.ndarray], workers: int) -> Iterator[Samples8]:
        """Decode parts by worker processes."""
        from joblib.externals.loky import ProcessPoolExecutor

        pool = ProcessPoolExecutor(workers)
        rest = iter(parts)
        ahead: deque[tuple[Work, Future[Samples8] | None]] = deque()

        def submit(count: int) -> None:
            for part in islice(rest, count):
                work = self._work(part)
                try:
                    ahead.append((work, pool.submit(decode, work)))
                except BrokenExecutor:
                    ahead.append((work, None))

        try:
            submit(2 * workers)
            while ahead:
                yield _result(*ahead.popleft())
                submit(1)
        finally:
            with stopped_quietly():
                pool.shutdown(wait=True, kill_workers=True)

    def _wanted(self, seconds: float) -> int:
        """Worker processes for so much work; none in a process that is a worker itself."""
        if self.workers is not None:
            return self.workers
        if seconds < WORTH or multiprocessing.parent_process() is not None:
            return 0
        cores = os.cpu_count() or 1
        if hasattr(os, "sched_getaffinity"):
            cores = len(os.sched_getaffinity(0))
        return min(cores, MOST_WORKERS) if cores > 1 else 0

    def _tell(self, done: int, total: int, seconds: float) -> None:
        if self.progress is not None and total > CHUNK:
            rest = round(seconds / done * (total - done))
            self.progress(
                f"decoding images: {done:,} of {total:,}, {rest // 60}:{rest % 60:02} left"
            )


def _result(work: Work, future: Future[Samples8] | None) -> Samples8:
    """What a worker gives back; where one died (killed for want of memory), work is done here."""
    if future is not None:
        with suppress(BrokenExecutor):
            return future.result()
    return decode(work)
