"""What stands beside a model's matrices: blocks and values switched on by a key, and WISE's side memory."""
