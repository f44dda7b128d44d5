"""Monitoring: a Prometheus over the service on one machine (``python -m monitoring``)."""
