"""The proof: a pruned graph computes what the masked original computes."""
