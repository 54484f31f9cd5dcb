"""What an edit did, as rows and as numbers made from rows: cases, metrics, scoring, summaries, judges."""
