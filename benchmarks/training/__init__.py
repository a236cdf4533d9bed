"""What the training methods reach on Fashion-MNIST: `python -m benchmarks.training NAME ...`, one module a method."""
