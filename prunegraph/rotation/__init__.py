"""Other bases for channels that pass only what is linear: the same function, with the least in the last channels."""
