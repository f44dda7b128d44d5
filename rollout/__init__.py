"""Releases versions by canary, and undoes nothing that was released: ``python -m rollout``."""
