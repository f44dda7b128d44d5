"""Releases versions by canary, without undoing earlier releases: ``python -m rollout``."""
