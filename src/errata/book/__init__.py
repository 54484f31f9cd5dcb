"""The book: which edits were made to a model, when, by whom and why, and which of them stand."""

from __future__ import annotations

from errata.book.book import Book, Event, Note, Record

__all__ = ["Book", "Event", "Note", "Record"]
