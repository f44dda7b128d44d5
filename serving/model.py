"""What both programs serve: a ``kserve.Model`` that knows its version and can be closed."""

from collections.abc import Mapping
from typing import Any

from kserve import Model

from serving.errors import NotFound
from serving.threads import Threads


class ServedModel(Model):  # type: ignore[misc]
    """The base of the predictor's and the transformer's model."""

    platform: str
    """What runs the model, for V2 metadata."""
    version: str | None = None
    """The version served; ``None`` where each answer names its own."""
    threads: Threads
    """For work that takes long."""

    async def __call__(self, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        """The answer to ``body``, by preprocess, predict and postprocess.

        They are called as by the SDK, so that a model written for it can be served here. This one
        replaces the SDK's, whose histograms and log take as long as reading the request and writing
        the answer, and which treats raw bytes as a failure of the server.
        """
        payload = await self.preprocess(body, headers)
        result = await self.predict(payload, headers)
        return await self.postprocess(result, headers)

    def check_served(self, name: str, version: str | None) -> None:
        """Check that a caller asks for this model, and for this version if it names one.

        Raises:
            NotFound: it asks for another.
        """
        if name != self.name:
            raise NotFound(f"there is no model '{name}'; this service has '{self.name}'")
        if version and self.version is None:
            raise NotFound("the traffic split chooses the version, not the caller")
        if version and version != self.version:
            raise NotFound(f"version '{version}' of model '{name}' is not served here")

    async def close(self) -> None:
        """Free what the model holds, after its last answer."""
        self.threads.close()
