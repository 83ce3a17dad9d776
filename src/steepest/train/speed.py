"""How fast is this machine, now: seconds of a piece of work, and the thread count that makes it fastest.

More threads are not always faster: on a busy machine a parallel region waits for its slowest thread, and
two threads were seen 10 to 20 times slower than one. So the count is measured.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def seconds_of(work: Callable[[], None], *, repeats: int = 3, warm_up: int = 1) -> float:
    """Median wall-clock seconds of ``work`` over some repeats, after a warm-up."""
    for _ in range(warm_up):
        work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def usable_cores() -> int:
    """Cores this process may use (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_candidates() -> list[int]:
    """All cores, half of them ..., one."""
    count, candidates = usable_cores(), []
    while count >= 1:
        candidates.append(count)
        count //= 2
    return candidates


def fastest_threads(
    work: Callable[[], None],
    candidates: Sequence[int] | None = None,
    *,
    repeats: int = 3,
    known: Mapping[int, float] | None = None,
) -> tuple[int, dict[str, float]]:
    """Set and return the thread count that makes ``work`` fastest, with the seconds of each.

    A larger count must win by 3% to be taken over a smaller one: near ties are safer alone.

    Args:
        known: seconds that were measured before, by threads.
    """
    seconds: dict[int, float] = {}
    for threads in sorted(candidates or thread_candidates()):
        torch.set_num_threads(threads)
        taken = (known or {}).get(threads)
        seconds[threads] = seconds_of(work, repeats=repeats) if taken is None else taken
    best = min(seconds)
    for threads, taken in seconds.items():
        if taken < 0.97 * seconds[best]:
            best = threads
    torch.set_num_threads(best)
    return best, {str(threads): round(taken, 6) for threads, taken in seconds.items()}
