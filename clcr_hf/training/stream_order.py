"""In which order streamed rows are learned from, split over processes and the workers of their data loaders."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from ..data.streamed import StreamedRows


class StreamOrder(Sampler[int]):
    """
    The rows of an epoch in an order that seed and epoch decide, see [`StreamedRows.order_windows`]. It is cut into a
    stretch for each worker of each process, and a process takes its batches from its stretches in turn, as its workers
    do: so each of them reads its own part of the files. Where an epoch is gone on with, rows before are not read.

    Args:
        batch: rows of a batch of one process.
        processes, workers: how many there are; 0 workers are one.
        seed: of the run.
    """

    def __init__(self, rows: StreamedRows, batch: int, processes: int, workers: int, seed: int):
        self.rows, self.batch, self.processes, self.workers = rows, batch, processes, max(workers, 1)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        for parts in zip(*map(self.batches, range(self.processes)), strict=True):
            for part in parts:
                yield from part

    def batches(self, process: int) -> Iterator[list[int]]:
        """Those of one process; as many as the others have, so that the last one may be empty."""
        whole = self.batch * self.processes
        count = -(-len(self) // whole)
        share, more = divmod(len(self) - (count - 1) * whole, self.processes)
        stretches, start = [], 0
        for each in range(self.processes):
            last = share + (each < more)
            for worker in range(self.workers):
                own = range(worker, count, self.workers)
                length = len(own) * self.batch - (self.batch - last) * (count - 1 in own)
                if each == process:
                    stretches.append(self._stretch(start, start + length))
                start += length
        last = share + (process < more)
        for number in range(count):
            stretch, wanted = stretches[number % self.workers], self.batch if number < count - 1 else last
            yield [next(stretch) for _ in range(wanted)]

    def _stretch(self, start: int, stop: int) -> Iterator[int]:
        """The rows from one place of the order to another."""
        place = 0
        for length, rows in self.rows.order_windows(self.seed, self.epoch):
            first, last = max(start - place, 0), min(stop - place, length)
            if first < last:
                yield from rows()[first:last].tolist()
            place += length
            if place >= stop:
                return


__all__ = ["StreamOrder"]
