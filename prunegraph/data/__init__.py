"""What follows `--data`: images, texts and arrays, as a model takes them, with their targets."""
