"""The mathematics of editing: keys, values, closed forms and descent."""
