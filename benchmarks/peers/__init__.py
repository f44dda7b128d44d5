"""What others serve the same model with, each as its documentation says; see ``servers.py``."""
