"""The demo: a trained model, pruned by several recipes, compiled, judged and timed."""
