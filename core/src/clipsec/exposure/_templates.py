"""Sentences that name a class, for texts that search."""

from __future__ import annotations

QUERY_TEMPLATES = (
    "a picture of a {}.",
    "a photograph of the {}.",
    "this is a {}",
    "there is a {} in the picture",
    "a close-up photo of a {}.",
    "a snapshot of one {}",
    "here we see a {}",
    "the {} in the middle of the frame",
    "a nice {} seen from nearby",
    "someone took a photo of a {}",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a small {}",
    "a large {}",
    "one {} in front of a wall",
    "a cropped photo of a {}.",
    "a good photo of the {}.",
    "an image showing a {}",
    "a typical {}",
    "a {} on a sunny day",
)
"""None of them is among the templates that attacks train on or that pools are made of, so that no query finds
its own words."""
