"""What the InferenceService's manifest says about its two components."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class ManifestError(Exception):
    """The manifest cannot be run; the message says what is missing or not understood."""


@dataclass(frozen=True)
class Container:
    """What one machine needs of a predictor's or transformer's container."""

    where: str
    """The beginning of error messages."""
    args: tuple[str, ...]
    env: Mapping[str, str]

    def flag(self, name: str, default: str) -> str:
        """The value of the flag ``name`` in the arguments, or ``default``.

        Raises:
            ManifestError: the flag has no value.
        """
        flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        flags.add_argument(f"--{name}", dest="value", default=default)
        try:
            value: str = flags.parse_known_args(self.args)[0].value
        except argparse.ArgumentError as error:
            raise ManifestError(f"{self.where}: {error}") from None
        return value


def read_manifest(path: Path) -> dict[str, Any]:
    """Read an InferenceService with a custom predictor and a custom transformer.

    Raises:
        ManifestError: the file cannot be read, or contains something else.
    """
    try:
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ManifestError(f"cannot read {path}: {error}") from None
    try:
        if manifest["kind"] != "InferenceService":
            raise ManifestError(f"{path}: expected an InferenceService, got a {manifest['kind']}")
        if not isinstance(manifest["metadata"]["name"], str):
            raise ManifestError(f"{path}: its name is not a string")
        for name in ("predictor", "transformer"):
            container = read_container(manifest["spec"][name], f"{path}: {name}")
            model = container.flag("model_name", "mnist")
            if model != (service := manifest["metadata"]["name"]):
                raise ManifestError(
                    f"{path}: {name} has --model_name={model}, the InferenceService is {service}"
                )
    except (KeyError, IndexError, TypeError) as error:
        raise ManifestError(
            f"{path}: no predictor and transformer with containers: {error}"
        ) from None
    read: dict[str, Any] = manifest
    return read


def read_container(spec: Mapping[str, Any], where: str) -> Container:
    """The container in a component's specification.

    Raises:
        ManifestError: it needs what one machine does not have; the message begins with ``where``.
    """
    container = spec["containers"][0]
    if "command" in container:
        raise ManifestError(f"{where}: 'command' replaces the image's; only 'args' can be run here")
    env = {}
    for variable in container.get("env", ()):
        if "value" not in variable:
            raise ManifestError(f"{where}: {variable['name']} has no plain value to run with here")
        env[variable["name"]] = variable["value"]
    args = container.get("args", ())
    for text in (*args, *env.values()):
        if not isinstance(text, str):
            raise ManifestError(f"{where}: {text!r} is not a string; put it in quotes")
    return Container(where, tuple(args), env)
