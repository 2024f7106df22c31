"""The waist: operations as data, and engines that execute batches of them. It knows bytes, numbers and names."""
