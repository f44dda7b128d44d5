"""Training: data, network, train, evaluate, publish (``python -m training``)."""
