"""What others can use: checkpoints, changes, adapters, blocks, and engines that load them."""
