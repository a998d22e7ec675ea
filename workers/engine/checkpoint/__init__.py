"""The official directories as tensors: names and shapes, files, formats, and what the model wants of them."""
