"""What a process really took: its high-water mark, the GPU allocator's, and the C library's share in it.

On a CPU the kernel counts a process's resident pages; writing 5 to ``/proc/self/clear_refs`` sets the high-water
mark back to the present, so that a part of a program can be measured. Resident is more than live: glibc keeps
freed blocks below a threshold (128 kB to 32 MB, it grows by itself) for later, 5 to 103% of what is live in a
training step. ``return_pages`` fixes the threshold low, so that freed tensors go back to the kernel at once; the
price is a page fault a page when they come again.

Sources: ``man 5 proc_pid_clear_refs``, ``man 3 mallopt``.
"""

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

KEPT_SHARE = (
    1.10  # of the live bytes that glibc holds beyond them, at most, when left alone (measured: 0.05 to 1.03)
)
RETURNED_SHARE = 0.03  # the same with returned pages
SCRATCH = (
    20 << 20
)  # kernels' own scratch and code, beyond live bytes (3 to 17 MB measured, whatever the model)
CONTEXT = 600 << 20  # of a GPU's memory, taken by the driver, kernels' code and libraries
PAGE_THRESHOLD = 64 << 10  # bytes from which a freed block is returned

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass
class Measurement:
    """Bytes a stretch of a program took; filled in when it ends.

    Attributes:
        before: held when it began.
        peak: the most held at once, ``before`` included.
        device: "cpu" (resident pages of the process) or "cuda" (reserved by torch's allocator).
    """

    device: str
    before: int
    peak: int = 0

    @property
    def added(self) -> int:
        """The most held above what was there."""
        return self.peak - self.before


@contextmanager
def measured(device: torch.device | str = "cpu") -> Iterator[Measurement]:
    """Measure the peak of what runs inside.

    >>> with measured() as m:
    ...     x = torch.ones(100_000_000)  # 400 MB, of which the process may have had some free already
    >>> 100e6 < m.added < 500e6
    True
    """
    device = torch.device(device)
    gc.collect()
    reset_peak(device)
    measurement = Measurement(device.type, resident(device))
    try:
        yield measurement
    finally:
        measurement.peak = peak(device)


def resident(device: torch.device | str = "cpu") -> int:
    """Bytes held now: pages of this process, or what torch's allocator reserved on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_reserved(device)
    return _status("VmRSS") or peak(device)


def peak(device: torch.device | str = "cpu") -> int:
    """The most bytes held since ``reset_peak`` (since the process began, where that cannot be reset)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak(device: torch.device | str = "cpu") -> bool:
    """Set the high-water mark to the present; false where the system does not allow it."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def context_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes that a GPU's context, kernels and libraries take beside torch's allocator; none on a CPU."""
    return CONTEXT if torch.device(device).type == "cuda" else 0


def free(device: torch.device | str = "cpu") -> int:
    """Bytes this process could still take: free on the machine, in its control group, or on the GPU."""
    if torch.device(device).type == "cuda":
        available, _ = torch.cuda.mem_get_info(device)
        return int(available)
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            amounts.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    for limit, used, parts, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file "),
        (
            "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
            "total_inactive_file ",
        ),
    ):  # fmt: skip
        numbers = [_lines(group / name)[:1] for name in (limit, used)]
        if all(number and number[0].isdigit() for number in numbers):
            # Pages of files that were read count as used, and are given back when they are wanted.
            cached = sum(int(line.split()[1]) for line in _lines(group / parts) if line.startswith(cache))
            amounts.append(int(numbers[0][0]) - int(numbers[1][0]) + cached)
    return max(0, min(amounts))


def return_pages(threshold: int = PAGE_THRESHOLD) -> bool:
    """Have glibc return freed blocks of ``threshold`` bytes and more to the kernel; false where there is no glibc.

    For the rest of the process. A step then takes what is live, within 3%, and more time: page faults.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  musl and others take mallopt and ignore it
        done = library.mallopt(_M_MMAP_THRESHOLD, threshold) and library.mallopt(_M_TRIM_THRESHOLD, threshold)
        library.malloc_trim(0)  # what earlier work left in the heap
    except (OSError, AttributeError, TypeError):
        return False
    return bool(done)


def allocator_timeline(work: Callable[[], object]) -> list[int]:
    """Live bytes after every allocation and release while ``work`` runs, from the CPU allocator's own reports.

    They count from zero at the beginning, so what was there before is not in them.
    """
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    results = profile.profiler.kineto_results
    events = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    live, timeline = 0, []
    for _, change in sorted(events, key=lambda event: event[0]):
        live += change
        timeline.append(live)
    return timeline


def _status(name: str) -> int:
    for line in _lines(Path("/proc/self/status")):
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
