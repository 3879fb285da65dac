"""Text on the host: bytes, tokens and words. The byte offset is the coordinate that all models share. No JAX.

The files, in reading order:

    files        JSON and text of a checkpoint folder, with errors in words
    tokenizer    a checkpoint's tokenizer for content, and the bytes of each token
    utf8         which tokens may come next so that the bytes are whole characters
    thinking     the strings around a model's thinking
    reference    the checkpoint's tokenizer in transformers, which ours is compared with
    chat         prompts from a checkpoint's chat template, and the control tokens that end thinking and turns
    sync         where a text may be cut in two for tokenisation, with the proof
    retokenize   how the canonical tokens change when a text grows or is cut
    words        where a span may end, and the end of thinking in text
    repetition   when a text goes round in a circle
    boundaries   where a phrase may begin and end (annotation)
"""
