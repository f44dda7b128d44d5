"""What predictor and transformer share: errors, the wire formats, batching, the model server."""
