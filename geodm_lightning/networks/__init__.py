"""Images to features and logits."""
