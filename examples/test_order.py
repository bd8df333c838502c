"""The tests of order.py: pytest examples/test_order.py. Nothing but Perdure and pytest is needed."""

import order
import pytest

from perdure.testing import assert_asked, assert_completed


@pytest.fixture
def perdure_agent():
    """What the fixtures `run_agent` and `perdure_harness` run."""
    return order.agent


def test_it_asks_for_the_address(run_agent):
    assert_asked(run_agent("three books"), "Where shall I send it?")


def test_a_whole_order(perdure_harness):
    asked = perdure_harness.send("three books")
    done = perdure_harness.send("Lisbon", after=asked)
    assert_completed(done, "receipt for three books, to Lisbon")


@pytest.fixture
def charged(monkeypatch):
    """What was charged for, in a payment service that is none."""
    calls = []

    async def charge(goods):
        calls.append(goods)
        return "receipt"

    monkeypatch.setattr(order, "charge", charge)
    return calls


def test_nobody_is_charged_twice_when_the_worker_dies(perdure_harness, charged):
    asked = perdure_harness.send("three books")
    perdure_harness.crash_after("charge")
    done = perdure_harness.send("Lisbon", after=asked)
    assert_completed(done, "receipt, to Lisbon")
    assert done.crashes == 1
    assert charged == ["three books"]


def test_the_address_may_come_a_week_later(perdure_harness):
    asked = perdure_harness.send("three books")
    perdure_harness.advance(7 * 86_400)
    assert_completed(perdure_harness.send("Lisbon", after=asked))
