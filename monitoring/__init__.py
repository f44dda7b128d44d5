"""``python -m monitoring``: the service on one machine, monitored by a Prometheus."""
