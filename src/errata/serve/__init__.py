"""A server of one model and its book: ask any state of it, correct it, and undo, over HTTP and in a browser."""
