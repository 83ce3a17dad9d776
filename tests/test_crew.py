"""Work side by side: everything comes back, a death or an error costs no more than it must, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from steepest.planning.crew import Crew, most_workers, wall_clock
from steepest.train.run import RunConfig

if sys.platform != "linux":
    pytest.skip("processes are forked on Linux alone", allow_module_level=True)


def forever() -> Iterator[int]:
    yield os.getpid()
    while True:
        time.sleep(0.01)


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_gradients_are_made_in_a_forked_process_after_products_of_several_threads() -> None:
    torch.set_num_threads(2)
    try:
        wide = torch.randn(512, 512, requires_grad=True, generator=torch.Generator().manual_seed(0))

        def work() -> Iterator[float]:
            (wide @ wide).square().sum().backward()
            assert wide.grad is not None
            yield float(wide.grad.abs().sum())

        (here,) = work()
        wide.grad = None
        with Crew(2) as crew:
            crew.start(work)
            crew.start(work)
            assert list(crew.results()) == pytest.approx([here, here], rel=1e-5)
    finally:
        torch.set_num_threads(1)


def test_a_death_costs_its_own_work_alone() -> None:
    def die() -> Iterator[int]:
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)
        yield 2

    with Crew(2) as crew:
        crew.start(die)
        crew.start(lambda: [3, 4])
        assert crew.full
        assert sorted(crew.results()) == [1, 3, 4] and not crew.busy


def test_an_error_is_raised_where_the_work_was_given_and_nobody_is_left() -> None:
    def fail() -> Iterator[int]:
        raise ValueError("no such rung")
        yield 0

    processes: list[int] = []
    with pytest.raises(ValueError, match="no such rung"), Crew(2) as crew:
        crew.start(forever)
        processes += crew.next_results()
        crew.start(fail)
        processes += crew.results()
    assert len(processes) == 1 and not alive(processes[0])


def test_no_worker_outlives_a_killed_parent() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from steepest.planning.crew import Crew\n"
        "from test_crew import forever\n"
        "crew = Crew(1)\n"
        "crew.start(forever)\n"
        "print(*crew.next_results(), flush=True)\n"
        "[_ for _ in crew.results()]\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)


def test_workers_share_what_is_to_be_done() -> None:
    assert wall_clock([], 2) == 0.0 and wall_clock([1.0, 2.0, 3.0], 1) == 6.0
    assert wall_clock([1.0, 2.0, 3.0], 2) == 3.0 and wall_clock([1.0, 2.0, 3.0], 8) == 3.0


def test_limited_memory_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steepest.planning.crew.usable_cores", lambda: 64)
    given = RunConfig()
    train = given.train.replace(device="cpu")
    assert most_workers(given.replace(train=train)) == (1 if torch.cuda.is_available() else 4)
    assert most_workers(given.replace(train=train.replace(memory=10**9))) == 1
