"""The capture of what other code does to tensors while a plan is open."""
