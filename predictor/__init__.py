"""The predictor: the KServe model that wraps the PyTorch graph (``python -m predictor``)."""
