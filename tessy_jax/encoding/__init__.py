"""A vocabulary's encoding as tables for the device: characters' kinds, pieces of text, merges of bytes."""
