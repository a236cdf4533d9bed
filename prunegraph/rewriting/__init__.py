"""Graph -> Graph: cutting channels away, and the masked original to prove it against."""
