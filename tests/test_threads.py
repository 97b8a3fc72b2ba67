"""Work side by side: order, and what happens when one fails."""

import threading
import time

import pytest

from ancdiff.threads import side_by_side


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0.0)
        return item * item

    assert list(side_by_side(slow_at_first, range(6), workers)) == [0, 1, 4, 9, 16, 25]


@pytest.mark.parametrize("workers", [1, 2])
def test_once_one_has_failed_no_other_is_begun(workers: int) -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            failed.set()
            raise ValueError("the second")
        if item > 1:
            failed.wait()
            time.sleep(0.2)
        return item

    with pytest.raises(ValueError, match="the second"):
        list(side_by_side(work, range(50), workers))
    assert len(begun) < 10
