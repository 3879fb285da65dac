"""Text on the device: characters, pre-tokens, merges and words of byte arrays; equal to what `text` finds."""
