"""The paper (TESSY, arXiv 2604.14164), and nothing else: two models write one reasoning trace together.

Algorithm 1, for one row, with the names in this package; `docs/algorithm.md` says exactly what each step means.

    y = []; the student starts                     rows begin as `State` (state.py), the student's turn
    until the thinking ends:                       loop.Loop, turn.RollbackSchedule
        take over the text y                       handover.HandOver, turn.Turn.catch_up
        generate up to k tokens given (x, y)       decode.Generator
        predict where the boundary b is            judge.PaperBoundary, scorers.TextScorer and ProbeScorer
        keep what is before b, append it to y      turn.Turn.cut
        roll back what is behind it                turn.Turn.roll_back, streams.rollback
        if something was cut, switch models        turn.Turn.switch
    the student writes the answer                  the same turn, in the phase ANSWER, without a predictor

All rows of a batch go through this at once in one jitted program. In reading order:

    state          what is known of each row: its text in bytes, each model's tokens of it, whose turn it is
    params         what is only read: weights and vocabularies
    turn           a turn of one role, and the schedule that gives turns: Algorithm 1
    stream         the schedule that runs by default: the same steps for fuller passes (docs/algorithm.md: Schedules)
    handover       text of the other model becomes tokens of this one
    streams        rollback, edits and catch-up of one model's tokens
    decode         one token for every row that writes
    sampling       how a token is chosen
    judge          which words are kept: the boundary of preset `paper`; `released`: that of the released code
    requests       a turn as a request to a server, which reads prompt and text as one string: the released code
    words_host     complete words of a span, with the tokenizer's help; `words_device`: those that need no tokenizer
    open_word      the word behind them: whether it may be complete, and whether it is lost
    scorers        whether a word is of the role's kind, by a predictor of either sort
    host_callback  calls to the host from inside the loop
    loop           the while loop, and the programs that put rows into it
"""
