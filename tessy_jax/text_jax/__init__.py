"""Text on the device: the same as `text` finds, in a window of each row's bytes.

The files, in reading order:

    arrays       reading and writing rows at indices of their own
    characters   the class of each character: letter, number, space …
    pretokens    where a tokenizer's regular expression splits a text
    merges       whether neighbouring tokens are what byte-pair encoding makes of their bytes
    canonical    both, for one vocabulary
    words        where words end, and where a text may go round in a circle
"""
