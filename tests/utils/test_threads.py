"""Background threads: order, bounded memory, errors that reach the caller."""

import threading
import time
from itertools import count

import pytest

from utils.threads import TaskQueue, ordered_map, prefetch


def test_results_come_in_order_whatever_finishes_first():
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert list(ordered_map(slow_first, range(20), workers=4, ahead=6)) == [i * i for i in range(20)]


@pytest.mark.parametrize("source", [lambda take: ordered_map(take, count(), workers=2, ahead=3), None])
def test_no_more_is_computed_than_ahead_of_what_is_asked_for(source):
    taken = []

    def take(item):
        taken.append(item)
        return item

    results = source(take) if source else prefetch(map(take, count()), ahead=3)
    for asked in range(1, 5):
        next(results)
        time.sleep(0.02)
        assert len(taken) <= asked + 3
    results.close()
    assert len(taken) <= 7


def test_an_error_stands_where_its_result_would():
    results = ordered_map(lambda i: 1 // (2 - i), range(5), workers=2, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_prefetch_gives_the_items_and_then_the_error():
    def broken():
        yield from (1, 2)
        raise OSError("unplugged")

    assert list(prefetch(iter("abc"), ahead=2)) == ["a", "b", "c"]
    items = prefetch(broken(), ahead=5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="unplugged"):
        next(items)


def test_one_worker_keeps_the_order_and_the_block_waits_for_all():
    done = []
    with TaskQueue(workers=1, pending=3) as queue:
        for item in range(30):
            queue.put(done.append, item)
    assert done == list(range(30))


def test_a_full_queue_blocks():
    gate, started = threading.Event(), []
    with TaskQueue(workers=1, pending=2) as queue:
        queue.put(gate.wait)
        queue.put(started.append, 1)
        threading.Timer(0.1, gate.set).start()
        queue.put(started.append, 2)  # returns only when the gate is open
        assert gate.is_set()
    assert started == [1, 2]


def test_the_first_error_is_raised_and_the_tasks_behind_it_are_skipped():
    done, gate = [], threading.Event()

    def fail():
        gate.wait()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), TaskQueue(workers=1, pending=5) as queue:
        queue.put(fail)
        queue.put(done.append, 1)
        gate.set()
    assert done == []


def test_an_error_in_the_block_drops_the_waiting_tasks():
    done, gate = [], threading.Event()
    with pytest.raises(KeyboardInterrupt), TaskQueue(workers=1, pending=5) as queue:
        queue.put(gate.wait, 0.1)
        queue.put(done.append, 1)
        raise KeyboardInterrupt
    assert done == []
