"""The transformer: any image becomes the picture the model knows (``python -m transformer``)."""
