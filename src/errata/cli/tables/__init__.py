"""How each command's rows look on a terminal."""
