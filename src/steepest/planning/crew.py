"""Trunks of a ladder side by side: narrow models keep no more than one core busy, so each has a process with one thread.

    seconds of some trunks with W workers  =  the fullest of W lists, each trunk put on the emptiest, the dearest first

Processes are forked, so they hold the text and the recipe already, and what they find comes back through a pipe. They
end with the process that began them. Where forking is unsafe (other systems than Linux, a GPU) one thing is done after the other.
"""

import ctypes
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

import torch

from steepest.train.run import RunConfig, resolve_device
from steepest.train.speed import usable_cores

MOST_WORKERS = 4  # as many as a ladder has sizes
PARENT_DEATH_SIGNAL = 1  # prctl's


def most_workers(given: RunConfig) -> int:
    """How many trunks may be trained at once; 1 where processes may not be forked or memory is limited."""
    forks = sys.platform == "linux" and not torch.cuda.is_available()
    if not forks or resolve_device(given.train.device).type != "cpu" or given.train.memory is not None:
        return 1
    return min(usable_cores(), MOST_WORKERS)


def wall_clock(prices: Iterable[float], workers: int) -> float:
    """Seconds that pieces of work take with some workers.

    >>> wall_clock([3.0, 5.0, 4.0], 1), wall_clock([3.0, 5.0, 4.0], 2)
    (12.0, 7.0)
    """
    lists = [0.0] * workers
    for price in sorted(prices, reverse=True):
        lists[lists.index(min(lists))] += price
    return max(lists)


class Crew:
    """Processes that each do one piece of work; leaving the context ends those that still run.

    >>> with Crew(2) as crew:
    ...     crew.start(lambda: [1, 2])
    ...     crew.start(lambda: [3])
    ...     sorted(crew.results())
    [1, 2, 3]
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._running: dict[Connection, Any] = {}

    @property
    def full(self) -> bool:
        """Whether all have something to do."""
        return len(self._running) >= self.workers

    @property
    def busy(self) -> bool:
        """Whether any has."""
        return bool(self._running)

    def start(self, work: Callable[[], Iterable[Any]]) -> None:
        """Give one process a piece of work, whose results can be pickled."""
        fork = multiprocessing.get_context("fork")
        mine, its = fork.Pipe(duplex=False)
        process = fork.Process(target=_do, args=(work, its), daemon=True)
        with warnings.catch_warnings():  # Python warns of threads; those of OpenMP are not used in the child
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        its.close()
        self._running[mine] = process

    def next_results(self) -> Iterator[Any]:
        """Wait until some process has something to tell, or ends. Its error, if it had one, is raised here."""
        for pipe in wait(list(self._running)):
            assert isinstance(pipe, Connection)
            try:
                result, error = pipe.recv()
            except EOFError:  # done, or killed
                self._running.pop(pipe).join()
                pipe.close()
                continue
            if error is not None:
                raise error
            yield result

    def results(self) -> Iterator[Any]:
        """All that is still to come."""
        while self._running:
            yield from self.next_results()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in self._running.items():
            process.kill()
            process.join()
            pipe.close()
        self._running.clear()


def _do(work: Callable[[], Iterable[Any]], pipe: Connection) -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # OpenMP's other threads do not live through a fork
    try:
        for result in work():
            pipe.send((result, None))
    except Exception as error:
        pipe.send((None, error))
    finally:
        pipe.close()
