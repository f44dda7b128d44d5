"""Releases what git says, and undoes nothing that was released since: ``python -m rollout``."""
