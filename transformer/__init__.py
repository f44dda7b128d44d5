"""The transformer: turns any image into the picture the model knows (``python -m transformer``)."""
