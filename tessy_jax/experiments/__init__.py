"""The paper's comparison as one run: methods and seeds through synthesize, sft and evaluate, and a report (Table 1).

stages      what is to be run: ordinary commands, with their configurations, checked before anything starts
marks       which of them are done
processes   a stage as a process of its own
schedule    runs what is left, in order
cost        what it would cost: --dry-run
results     what the stages wrote
report      tables and figures of it
"""
