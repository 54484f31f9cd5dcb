"""What several methods share; a method in the folder above imports from here and from `base` only."""
