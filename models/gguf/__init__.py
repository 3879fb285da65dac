"""Reading GGUF files: metadata, dequantised weights and the tokenizer, with NumPy and without torch."""
