"""What the base model does on ordinary text."""
