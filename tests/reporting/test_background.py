import threading
import time

from hybridsearch.reporting.background import Background, Patience


def test_actions_run_in_order_and_close_waits_for_them() -> None:
    done: list[int] = []
    background = Background("test", answers=lambda: True, warn=done.append)  # type: ignore[arg-type]
    for number in range(100):
        background.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    background.close()
    assert done == list(range(100))


def test_submitting_never_waits_for_a_slow_receiver() -> None:
    release = threading.Event()
    background = Background("test", answers=lambda: True, warn=lambda _: None)
    background.submit(lambda: (release.wait(10), None)[1])
    begin = time.monotonic()
    for _ in range(1000):
        background.submit(lambda: None)
    assert not release.is_set()
    assert time.monotonic() - begin < 5, "submitting blocked behind the first action"
    release.set()
    background.close()


def test_an_outage_is_waited_for_and_warned_of_once() -> None:
    done: list[str] = []
    warnings: list[str] = []
    state = {"failures": 0}

    def flaky() -> None:
        if state["failures"] < 7:
            state["failures"] += 1
            raise ConnectionError("no route")
        done.append("flaky")

    background = Background(
        "test", answers=lambda: state["failures"] >= 7, warn=warnings.append, patience=Patience(pause_seconds=0.001)
    )
    background.submit(flaky)
    background.submit(lambda: done.append("next"))
    while len(done) < 2:
        time.sleep(0.001)
    background.close()
    assert done == ["flaky", "next"]
    assert len(warnings) == 1
    assert "no route" in warnings[0]


def test_an_action_at_fault_is_dropped_and_counted() -> None:
    done: list[str] = []
    warnings: list[str] = []
    background = Background("test", answers=lambda: True, warn=warnings.append)
    background.submit(lambda: done.remove("absent"))
    background.submit(lambda: done.append("next"))
    background.close()
    assert (done, background.dropped, len(warnings)) == (["next"], 1, 2)


def test_closing_in_an_outage_ends_in_bounded_time_and_says_what_is_missing() -> None:
    warnings: list[str] = []

    def fail() -> None:
        raise ConnectionError("down")

    background = Background(
        "test", answers=lambda: False, warn=warnings.append, patience=Patience(pause_seconds=60, close_seconds=5)
    )
    for _ in range(3):
        background.submit(fail)
    while not warnings:
        time.sleep(0.001)
    background.close()
    assert warnings[-1].startswith("3 records were not written")


def test_a_full_buffer_drops_the_oldest() -> None:
    release, done = threading.Event(), list[int]()
    background = Background("test", answers=lambda: True, warn=lambda _: None, patience=Patience(most_buffered=3))
    background.submit(lambda: (release.wait(10), None)[1])
    for number in range(5):
        background.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    release.set()
    background.close()
    assert done == [2, 3, 4]
