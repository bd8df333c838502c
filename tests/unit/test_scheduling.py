"""`metadata.perdure`: what is taken, what is refused, and that nothing else ever comes out of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import InvalidParams
from perdure.scheduling import LONGEST, PRIORITIES, Scheduling, scheduling_of

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TIMES = ("notBefore", "expires", "deadline")
ATTRIBUTES = {"notBefore": "not_before", "expires": "expires", "deadline": "deadline"}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(
        ["2026-11-23T13:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "now"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
members = st.sampled_from(["priority", *TIMES, "turnTimeout", "Priority"])
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def asked(**members: Any) -> Scheduling:
    return scheduling_of({"perdure": members, "other": 1}, NOW)


def refused(**members: Any) -> InvalidParams:
    with pytest.raises(InvalidParams) as raised:
        asked(**members)
    return raised.value


def outcome(value: Any) -> Scheduling | InvalidParams:
    try:
        return scheduling_of({"perdure": value}, NOW)
    except InvalidParams as error:
        return error


@given(st.dictionaries(members, json_values) | json_values)
def test_whatever_is_asked_is_taken_in_bounds_or_refused_by_name(value: Any) -> None:
    found = outcome(value)
    if isinstance(found, InvalidParams):
        assert found.field.startswith("metadata.perdure")
        return
    assert found.priority is None or found.priority in PRIORITIES
    times = (found.not_before, found.expires, found.deadline, found.turn_timeout)
    assert all(seconds is None or 0 <= seconds <= LONGEST for seconds in times)


@given(st.integers(PRIORITIES[0], PRIORITIES[-1]))
def test_every_priority_is_taken(priority: int) -> None:
    assert asked(priority=priority).priority == priority == asked(priority=float(priority)).priority


@pytest.mark.parametrize("priority", [-101, 101, 0.5, "5", True, [], {}, 1e300])
def test_no_other_priority_is(priority: Any) -> None:
    error = refused(priority=priority)
    assert str(error) == "metadata.perdure.priority: must be a whole number from -100 to 100"


@given(st.sampled_from(TIMES), st.floats(0, LONGEST) | st.integers(0, int(LONGEST)))
def test_seconds_from_now(name: str, seconds: float) -> None:
    assert getattr(asked(**{name: seconds}), ATTRIBUTES[name]) == float(seconds)


@given(st.sampled_from(TIMES), st.integers(-(10**9), int(LONGEST)), zones)
def test_a_timestamp_is_as_many_seconds_ahead_wherever_it_was_written(
    name: str, seconds: int, zone: timezone
) -> None:
    """What has passed is now."""
    written = (NOW + timedelta(seconds=seconds)).astimezone(zone).isoformat()
    assert getattr(asked(**{name: written}), ATTRIBUTES[name]) == max(seconds, 0)


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(
    "value",
    [
        -1,
        LONGEST + 1,
        True,
        [],
        {},
        "",
        "tomorrow",
        "60",
        "2026-12-24",
        "2026-12-24T18:00:00",
        "2026-13-24T18:00:00Z",
        "2027-11-25T12:00:00Z",
    ],
)
def test_what_is_no_time_is_refused(name: str, value: Any) -> None:
    error = refused(**{name: value})
    assert error.field == f"metadata.perdure.{name}"
    assert "RFC 3339" in error.description


@pytest.mark.parametrize("value", [0, -1, LONGEST + 1, "60", False, "2026-12-24T18:00:00Z"])
def test_a_turns_timeout_is_seconds_above_zero(value: Any) -> None:
    assert refused(turnTimeout=value).field == "metadata.perdure.turnTimeout"


def test_all_together() -> None:
    found = asked(priority=1, notBefore=2, expires="2026-11-23T12:00:03Z", deadline=4, turnTimeout=0.5)
    assert found == Scheduling(priority=1, not_before=2, expires=3, deadline=4, turn_timeout=0.5)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"perdure": None},
        {"perdure": {}},
        {"perdure": {"priority": None, "turnTimeout": None, "expires": None}},
    ],
)
def test_who_asks_for_nothing_gets_nothing(metadata: Any) -> None:
    assert scheduling_of(metadata, NOW) == Scheduling()


def test_an_unknown_member_is_a_typing_error() -> None:
    error = refused(notbefore=1, priority=1)
    assert error.field == "metadata.perdure.notbefore"
    assert error.description == "is unknown; known are priority, notBefore, expires, deadline, turnTimeout"


@pytest.mark.parametrize("value", ["soon", 5, [], True])
def test_it_is_an_object(value: Any) -> None:
    with pytest.raises(InvalidParams, match=r"^metadata\.perdure: must be an object$"):
        scheduling_of({"perdure": value}, NOW)
