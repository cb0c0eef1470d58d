"""Text and weights that demo, bench and tests share."""
