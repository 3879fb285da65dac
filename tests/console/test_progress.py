"""What people see of a run and of a trace."""

import dataclasses
import io
import json
import time

import pytest
from rich.console import Console

from tessy_jax.console.progress import ProgressView, Remaining, SynthesisProgress, View, panel, plain_line
from tessy_jax.console.show_trace import show
from tessy_jax.data.records import FinishReason, Problem, Record, Span, TokenCounts


def progress():
    return SynthesisProgress(
        total=10,
        done=4,
        rejected=1,
        active=3,
        resumed=1,
        kept={"student": 600, "teacher": 1400},
        rolled_back=500,
        switches=30,
        passes=250,
        rows=3000,
        wrote=2400,
        read=300,
        visits=40,
        visitors=100,
        started=100.0,
    )


def test_metrics_give_rates_waste_and_the_time_left():
    values = progress().metrics(now=120.0)
    assert values == json.loads(json.dumps(values))
    assert values["tokens_per_second"] == {"student": 30.0, "teacher": 70.0}
    assert (values["waste"], values["switches_per_1k_tokens"], values["eta_seconds"]) == (0.2, 15.0, 25.0)


def test_metrics_at_the_start_divide_by_nothing():
    values = SynthesisProgress(started=5.0).metrics(now=5.0)
    assert (values["waste"], values["switches_per_1k_tokens"], values["eta_seconds"]) == (0.0, 0.0, None)
    assert plain_line(values).startswith("done 0/?  active 0  rejected 0")


def test_a_plain_line_has_all_numbers():
    assert plain_line(progress().metrics(now=120.0)) == (
        "done 4/10  active 3  rejected 1  tok/s student 30.0, teacher 70.0  "
        "kept 2000 tokens, 500 rolled back (20% waste)  switches/1k 15.0  "
        "passes 250, of their rows 80% wrote, 10% read  host 40 visits for 2.5 rows each  elapsed 0:00:20  eta 0:00:25"
    )


def test_rows_that_gave_their_pages_back_are_counted():
    values = dataclasses.replace(progress(), evicted=7).metrics(now=120.0)
    assert values["evicted"] == 7
    assert "active 3, 7 evicted  rejected" in plain_line(values)


def test_plain_lines_come_at_intervals():
    times = iter([100.0] * 4 + [110.0] + [130.0] * 3 + [140.0] * 9)
    out = io.StringIO()
    console = Console(file=out, width=40)
    with ProgressView(progress(), console, interval=30, clock=lambda: next(times)) as view:
        for _ in range(3):
            view.update()
    lines = out.getvalue().splitlines()
    assert [line.split("elapsed ")[1][:7] for line in lines] == ["0:00:00", "0:00:30", "0:00:40"]
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_a_panel():
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    state = progress()
    with ProgressView(state, console, clock=lambda: 120.0) as view:
        state.done = 5
        view.update()
    assert "5/10" in out.getvalue()
    assert "\x1b[" in out.getvalue()
    recorder = Console(file=io.StringIO(), width=100, record=True)
    recorder.print(panel(progress().metrics(now=120.0)))
    text = recorder.export_text()
    for part in ("4/10", "student 30.0, teacher 70.0", "500 rolled back (20% waste)", "15.0", "0:00:25"):
        assert part in text


def test_the_time_left_is_that_of_the_recent_past():
    past = Remaining(window=100)
    past.see(900.0, [1, 1, 1, 1])  # the first dispatch, which compiled for 900 seconds: the clock starts here
    assert past.seconds(20, 900.0) is None
    past.see(910.0, [1])
    assert past.seconds(19, 910.0) == 190.0
    past.see(940.0, [1, 1, 1])
    assert past.seconds(16, 940.0) == 160.0  # 4 rows in 40 seconds, 16 to go
    assert past.seconds(16, 945.0) == 155.0  # a clock that runs down between two states
    past.see(1000.0, [1] * 12)
    past.see(1040.0, [1] * 2)
    assert past.seconds(2, 1040.0) == pytest.approx(2 * 100 / 14)  # since second 940 alone: 14 rows in 100 seconds


def test_rows_in_flight_count_for_what_they_have():
    state = SynthesisProgress(total=6, done=0, started=0.0)
    state.see([], [0, 0, 0, 0], now=60.0)
    assert state.metrics(60.0)["eta_seconds"] is None
    state.done = 2
    state.see([1000, 1000], [500, 500], now=90.0)  # 3000 in 30 seconds
    # All rows have 1000: two lack 500 each, and two are not begun.
    assert state.metrics(90.0)["eta_seconds"] == 30.0


def test_long_rows_are_not_taken_for_short_ones():
    state = SynthesisProgress(total=3, done=0, started=0.0)
    state.see([], [0, 0, 0], now=0.0)
    state.done = 1
    state.see([100], [100, 100], now=10.0)
    # One row in 300 has ended, so that two others have 300 more each, at 10 a second for each row in flight.
    assert state.metrics(10.0)["eta_seconds"] == 30.0
    state.see([], [400, 400], now=40.0)
    # One in 900. All wrote 900 in 90 seconds of rows: 3 rows for 10 and 2 rows for 30.
    assert state.metrics(40.0)["eta_seconds"] == 90.0
    assert state.metrics(45.0)["eta_seconds"] == 85.0


def test_rows_of_several_lengths():
    past = Remaining()
    past.see(0.0, active=[0, 0, 0, 0])
    past.see(10.0, ended=[100, 200], active=[100, 150])
    # Of 100, 100 (in flight), 150 (in flight), 200: three of four are longer than 100, and none longer than 200. So
    # rows in flight end at 200 and lack 100 and 50; one that is not begun has 100 + 3/4 x 100. 550 were written.
    assert past.seconds(2, 10.0) == pytest.approx(100 / (550 / 40))  # the longest alone, as fast as a row is
    assert past.seconds(7, 10.0) == pytest.approx((100 + 50 + 5 * 175) / 55)


def test_a_view_lives_while_it_waits():
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=100, force_terminal=terminal)
        with View(
            "training", lambda _: {"step": "0/3"}, console, interval=0.02, waiting="compiling", tick=0.01
        ) as view:
            begun = out.getvalue()
            assert ("training: compiling" in begun) == terminal
            end = time.monotonic() + 60
            while out.getvalue().count("compiling") <= 2:
                assert time.monotonic() < end
                time.sleep(0.01)
            view.update()
            count = out.getvalue().count("compiling")
            time.sleep(0.05)
        assert out.getvalue().count("compiling") == count


THINK, ANSWER = "Hm [bold]x[/bold] so 4.", "It is 4."
CONTENT = f"<think>\n{THINK}\n</think>\n\n{ANSWER}"


def record():
    begin = len("<think>\n")
    end = begin + len(THINK)
    spans = (
        Span("student", "think", begin, begin + 2, 1, 0),
        Span("teacher", "think", begin + 2, end, 7, 2),
        Span("student", "answer", len(CONTENT) - len(ANSWER), len(CONTENT), 4, 0),
    )
    problem = Problem("sum", [{"role": "user", "content": "2+2?"}])
    counts = TokenCounts(student=1, teacher=7, answer=4, rolled_back=2)
    return Record(problem, 0, CONTENT, spans, counts, 1, FinishReason("end", "stop"), 0).to_row()


def test_without_colour_letters_mark_the_authors():
    out = io.StringIO()
    show(record(), Console(file=out, width=30))
    assert out.getvalue() == (
        "sum #0  finish think: end, answer: stop  switches 1  tokens student 1, teacher 7, answer 4, rolled_back 2\n"
        "⟦S student⟧  ⟦T teacher⟧  ⟦A answer⟧  ⟦M marker⟧\n"
        "user: 2+2?\n"
        "⟦M <think>\n⟧⟦S Hm⟧⟦T  [bold]x[/bold] so 4.⟧⟦M \n</think>\n\n⟧⟦A It is 4.⟧\n"
    )


def test_in_colour_the_text_has_no_marks():
    out = io.StringIO()
    show(record(), Console(file=out, width=200, force_terminal=True, color_system="standard", no_color=False))
    text = out.getvalue()
    assert "⟦" not in text
    assert "\x1b[36mHm\x1b[0m\x1b[33m [bold]x[/bold] so 4.\x1b[0m" in text
    assert "\x1b[32mIt is 4.\x1b[0m" in text


def test_text_cannot_command_the_terminal():
    out = io.StringIO()
    row = record()
    row["id"] = "\x1b[2J"
    row["messages"][0]["content"] = "\x1b[2J"
    show(row, Console(file=out))
    assert "\x1b" not in out.getvalue()


def test_show_names_bad_records():
    console = Console(file=io.StringIO())
    with pytest.raises(ValueError, match="cannot show record 'a': KeyError"):
        show({"id": "a"}, console)
    broken = record()
    broken["spans"][0]["end"] = 999
    with pytest.raises(ValueError, match=r"span 8\.\.999 overlaps another or leaves the text of 50 characters"):
        show(broken, console)
