"""Posts events to the service as the dispatcher of Knative's Kafka broker does.

Headers, retries and dead letters are those of its WebClientCloudEventSender and
RecordDispatcherImpl: https://github.com/knative-extensions/eventing-kafka-broker
"""

import asyncio
import base64
import itertools
import logging
from http import HTTPStatus
from urllib.parse import quote, unquote

import aiohttp
from cloudevents.http import CloudEvent

from serving import events
from serving.errors import ServingError
from standalone.records import text

log = logging.getLogger(__name__)

RETRIES = 10
"""Retries after the first attempt; with ``BACKOFF``, their waits add up to seven minutes."""
BACKOFF = 0.2
"""Seconds; the wait before the n-th retry is this times two to the power of n."""
TIMEOUT = 60
"""Seconds that one attempt may take."""
ERROR_DATA = 1024
"""Most bytes of an error's body that a dead letter contains."""
RETRIED = {
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
}
PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""Characters of an attribute's value that are not escaped in a header:
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md#3132-http-header-values"""


class Undelivered(Exception):
    """The service refused an event, could not be reached, or did not answer with an event."""

    def __init__(self, status: int | None = None, body: bytes = b"") -> None:
        """The last answer; ``status`` is ``None`` if there was none, or if it was not an event."""
        super().__init__(status)
        self.status = status
        self.body = body


class Delivery:
    """Posts events to one URL, with retries where they may help."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def deliver(self, event: CloudEvent) -> CloudEvent:
        """Post ``event``; returns the event that the service answers with.

        Raises:
            Undelivered: a retry would not help, or all have failed.
        """
        for attempt in itertools.count(1):
            try:
                return await self._post(event)
            except Undelivered as error:
                if attempt > RETRIES or not retryable(error.status):
                    raise
                reason = f"status {error.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                if attempt > RETRIES:
                    raise Undelivered from None
                reason = f"{type(error).__name__}: {error}"
            delay = BACKOFF * 2**attempt
            log.info("%.100r is tried again in %s s: %s", event["id"], delay, reason)
            await asyncio.sleep(delay)
        raise AssertionError

    def dead_letter(self, event: CloudEvent, error: Undelivered) -> CloudEvent:
        """The event with what went wrong in extension attributes."""
        reason = {"knativeerrordest": self._url}
        if error.status is not None:
            reason["knativeerrorcode"] = str(error.status)
            reason["knativeerrordata"] = base64.b64encode(error.body[:ERROR_DATA]).decode()
        return CloudEvent({**event.get_attributes(), **reason}, event.get_data())

    async def _post(self, event: CloudEvent) -> CloudEvent:
        headers = {
            f"ce-{name}": quote(text(value), safe=PRINTABLE)
            for name, value in event.get_attributes().items()
            if value is not None and name != "datacontenttype"
        }
        headers |= {"Prefer": "reply", "Kn-Namespace": "default"}
        if content_type := event.get("datacontenttype"):
            headers["Content-Type"] = quote(content_type, safe=f'{PRINTABLE} "%')
        async with self._session.post(
            self._url,
            data=event.get_data(),
            headers=headers,
            skip_auto_headers=["Content-Type"],
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(TIMEOUT),
        ) as response:
            body = await response.read()
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                raise Undelivered(response.status, body)
            answer_headers = {
                name.lower(): unquote(value) if name.lower().startswith("ce-") else value
                for name, value in response.headers.items()
            }
        try:
            answer = events.read(answer_headers, body)
        except ServingError:
            answer = None
        # The service answers in the request's binary mode, in which the data are bytes.
        if answer is None or events.is_structured(answer_headers):
            raise Undelivered
        return answer


def retryable(status: int | None) -> bool:
    """Whether a retry may help: not after ``None``, an answer that was not an event."""
    return status is not None and (status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in RETRIED)
