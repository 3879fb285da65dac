"""What runs in a box beside a program: plain Python that CPython and PyPy from 3.8 on understand."""
