"""The errors; each message says what state things are in, or what to do."""


class RolloutError(Exception):
    """Base class: the command was not carried out."""


class ClusterError(RolloutError):
    """``kubectl`` or the API server failed or refused; the message is usually its own."""


class Unreachable(ClusterError):
    """The API server does not answer, or is overloaded: another try may succeed."""


class Conflict(ClusterError):
    """Somebody else has changed the object in the meantime."""


class NoEvidence(RolloutError):
    """There is nothing to judge by: no counters can be read, or none have been taken yet."""


class Refused(RolloutError):
    """The command would disturb a release; the message says what to do first."""
