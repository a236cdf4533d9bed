"""How far a model can be pruned: what each group costs, and the largest cut within a tolerance."""
