"""The demo: a pretrained sentence encoder, pruned by several recipes, compiled, judged and timed."""
