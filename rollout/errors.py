"""What can go wrong; each message says what state things are in, or what to do."""


class RolloutError(Exception):
    """The base of all of them: what was asked for is not done."""


class ClusterError(RolloutError):
    """``kubectl`` or the API server refused; the message is its own."""


class Unreachable(ClusterError):
    """The API server does not answer: another try may succeed."""


class Conflict(ClusterError):
    """Somebody else has changed what was about to be changed."""


class NoEvidence(RolloutError):
    """What the pods have counted cannot be read."""


class Refused(RolloutError):
    """What is asked for would disturb a release; the message says what to do first."""
