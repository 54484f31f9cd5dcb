"""What a transformer looks like from here: text in, logits and text out, and its matrices by site."""
