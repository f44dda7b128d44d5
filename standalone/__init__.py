"""Standalone: the InferenceService on one machine, without a cluster (``python -m standalone``)."""
