"""Graph -> Graph: weights and activations in integers, as pairs of QuantizeLinear and DequantizeLinear."""
