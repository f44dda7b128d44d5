"""Every error that a caller may see, with its HTTP and gRPC status.

::

    ServingError
    ├── InvalidInput   400  INVALID_ARGUMENT    what the client sent is wrong
    ├── NotFound       404  NOT_FOUND           no such model or version here
    ├── NotInTime      408  DEADLINE_EXCEEDED   by gRPC, the message did not arrive in time
    ├── TooLarge       413  INVALID_ARGUMENT    more than the limits allow
    ├── NotAnImage     415  INVALID_ARGUMENT    not an image in a supported format
    ├── Overloaded     429  RESOURCE_EXHAUSTED  too much is in hand, try again later
    ├── Unavailable    503  UNAVAILABLE         the predictor cannot be reached or is not ready
    ├── TimedOut       504  DEADLINE_EXCEEDED   it took too long
    └── Failed         500  INTERNAL            the predictor failed, which is a defect

The caller gets the message unchanged: it names the instance and what was expected, and never
an internal address. Any other exception is a defect of ours: the caller gets a 500 without
details.
"""

from http import HTTPStatus

LONGEST = 500
"""Most characters in a message. It may quote what the caller sent, and gRPC sends it in the
trailers, whose size clients limit."""
SHOWN = 20
"""Bytes of what cannot be read that a message shows: enough to tell an image, a form, base64, a
path or an iPhone's HEIC."""


class ServingError(Exception):
    """An error with a status; ``str(error)`` is the message for the caller."""

    http_status: HTTPStatus
    grpc_status: str
    retry_after: int | None = None
    """Seconds after which a retry makes sense, for the header ``Retry-After``."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]}…")


class InvalidInput(ServingError):
    """The client sent something wrong."""

    http_status = HTTPStatus.BAD_REQUEST
    grpc_status = "INVALID_ARGUMENT"


class NotFound(ServingError):
    """This service has no model, or no version of it, by that name."""

    http_status = HTTPStatus.NOT_FOUND
    grpc_status = "NOT_FOUND"


class NotInTime(ServingError):
    """The client did not send all of its request in time."""

    http_status = HTTPStatus.REQUEST_TIMEOUT
    grpc_status = "DEADLINE_EXCEEDED"


class TooLarge(ServingError):
    """The request, an image, or the number of instances is over its limit."""

    http_status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    # Not RESOURCE_EXHAUSTED: clients retry that, and this cannot succeed later.
    grpc_status = "INVALID_ARGUMENT"


class NotAnImage(ServingError):
    """The bytes are not an image in a supported format."""

    http_status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    grpc_status = "INVALID_ARGUMENT"


class Overloaded(ServingError):
    """More work is queued than can be answered in time."""

    http_status = HTTPStatus.TOO_MANY_REQUESTS
    grpc_status = "RESOURCE_EXHAUSTED"
    retry_after = 2


class Unavailable(ServingError):
    """The predictor cannot be reached or is not ready."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    grpc_status = "UNAVAILABLE"
    retry_after = 1


class Failed(ServingError):
    """The predictor answered with a status that it never should."""

    http_status = HTTPStatus.INTERNAL_SERVER_ERROR
    grpc_status = "INTERNAL"


class TimedOut(ServingError):
    """Decoding, or the predictor, took too long."""

    http_status = HTTPStatus.GATEWAY_TIMEOUT
    grpc_status = "DEADLINE_EXCEEDED"
