"""What both programs serve: a ``kserve.Model`` that knows its version and can be closed."""

from typing import Any

from kserve import Model

from serving.errors import NotFound


class ServedModel(Model):  # type: ignore[misc]
    """The base of the predictor's and the transformer's model."""

    platform: str
    """What runs the model, for V2 metadata."""
    version: str | None = None
    """The version served; ``None`` where each answer names its own."""

    def validate(self, payload: Any) -> Any:
        """Leave the checks to the model: the SDK's take raw bytes for a failure of the server."""
        return payload

    def check_served(self, name: str, version: str | None) -> None:
        """See that a caller means this model, and this version of it if it names one.

        Raises:
            NotFound: it means another.
        """
        if name != self.name:
            raise NotFound(f"there is no model '{name}'; this service has '{self.name}'")
        if version and self.version is None:
            raise NotFound("the traffic split chooses the version, not the caller")
        if version and version != self.version:
            raise NotFound(f"version '{version}' of model '{name}' is not served here")

    async def close(self) -> None:
        """Free what the model holds, after its last answer."""
