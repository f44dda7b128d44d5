"""The ids of a request: taken from its caller where they can be, carried on, never mixed up."""

import asyncio
import logging
import re

import pytest

from serving.context import RequestContext, current, enter, receive, share

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "request_id", ["42", "0af7651916cd43dd-8448eb211c80319c", "a/b:c_d~e=f+g@h.i"]
)
def test_a_sane_id_is_the_callers(request_id: str) -> None:
    assert receive(request_id, "", "").request_id == request_id


@pytest.mark.parametrize(
    "request_id", ["", "a b", "a\nb", "a\x1b[31m", "{}", '"', "ü", "a" * 129, "a\n"]
)
def test_another_id_is_replaced_by_one_of_ours(request_id: str) -> None:
    first, second = (receive(request_id, "", "").request_id for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


def test_a_valid_trace_is_the_callers() -> None:
    context = receive("", PARENT, "vendor=1")
    assert context.trace_id == TRACE
    assert (context.traceparent, context.tracestate) == (PARENT, "vendor=1")


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        TRACE,
        PARENT.upper(),
        PARENT + "-00",
        PARENT + "\n",
        PARENT.replace("00-", "ff-", 1),
        PARENT.replace(TRACE, "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
    ],
)
def test_an_invalid_trace_is_none(traceparent: str) -> None:
    context = receive("42", traceparent, "vendor=1")
    assert context.trace_id == ""
    assert context.headers() == {"x-request-id": "42"}


@pytest.mark.parametrize(
    "tracestate", ["a=1\r\nx: y", "a=1\n", "a=\0", "a=1,\tb=2", "a=ü", "a" * 513]
)
def test_a_state_that_could_end_a_header_is_dropped(tracestate: str) -> None:
    """Over gRPC it comes as it is, and goes on over HTTP."""
    context = receive("42", PARENT, tracestate)
    assert (context.traceparent, context.tracestate) == (PARENT, "")


def test_a_call_carries_the_ids_on() -> None:
    assert receive("42", PARENT, "vendor=1").headers() == {
        "x-request-id": "42",
        "traceparent": PARENT,
        "tracestate": "vendor=1",
    }


def test_outside_of_a_request_there_are_no_ids() -> None:
    assert current() == RequestContext("", "", "")
    assert current().headers() == {}


def test_each_task_has_its_own() -> None:
    async def handle(request_id: str) -> str:
        enter(receive(request_id, "", ""))
        await asyncio.sleep(0)
        return current().request_id

    async def both() -> list[str]:
        return list(await asyncio.gather(handle("1"), handle("2")))

    assert asyncio.run(both()) == ["1", "2"]


def test_a_request_that_has_a_run_to_itself_goes_on_in_it() -> None:
    request = receive("42", PARENT, "")

    async def run() -> None:
        assert share([request]) == current() == request

    asyncio.run(run())


def test_a_run_for_several_is_none_of_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "serving.context")

    async def run() -> None:
        enter(receive("1", PARENT, ""))
        context = share([receive("1", PARENT, ""), receive("2", "", "")])
        assert context is current()
        assert context.request_id not in ("", "1", "2")
        assert context.trace_id == ""

    asyncio.run(run())
    assert caplog.messages == ["a run for the requests 1 2"]
