"""The paper's comparison as one run: methods and seeds through synthesize, sft and evaluate, and a report (Table 1).

    stages      what is to be run: ordinary commands, with their configurations, checked before anything starts
    notes       what these configurations may not mean
    marks       which of them are done
    processes   a stage as a process of its own
    schedule    runs what is left, in order
    cost        what it would cost: --dry-run
    results     what the stages wrote; traces: what their records say
    numbers     means, differences and sums of it
    report      tables and figures

What a method, a training or an evaluation is, it does not know: these are the commands' own.
"""
