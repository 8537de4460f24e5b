"""A pretrained sentence encoder: how much of its embeddings is left, and how fast they come."""
