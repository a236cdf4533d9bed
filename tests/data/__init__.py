"""Data as people have them: images, boxes, texts."""
