"""Numbers that others published, for display beside one's own; never results of this program.

Table 1 of TESSY (arXiv 2604.14164): pass@1 in percent, student Qwen3-8B, teacher GPT-OSS-120B. The paper does not say
how often each benchmark was run, nor on how many problems; docs/evaluation.md has what its decimals imply.
"""

SOURCE = "arXiv 2604.14164, Table 1"
COLUMNS = ("LCB-V5", "LCB-V6", "LCB-Pro", "OJBench", "GPQA-D", "AIME2024", "AIME2025", "OlympiadBench")
"""The labels of the tasks; the paper writes GPQA, AIME24 and AIME25."""
TABLE_1: dict[str, tuple[float, ...]] = {
    "Qwen3-8B": (55.09, 49.58, 25.35, 18.75, 60.16, 76.67, 69.17, 69.81),
    "Teacher-Score": (54.55, 48.00, 26.06, 18.32, 60.61, 75.42, 66.77, 69.53),
    "Teacher-Reference": (51.50, 43.43, 19.26, 14.22, 60.61, 71.98, 62.29, 67.80),
    "Teacher-Answer": (35.33, 33.14, 21.39, 14.01, 60.42, 74.79, 64.48, 69.40),
    "Teacher-Think": (47.90, 43.43, 24.36, 12.50, 54.29, 77.81, 69.06, 69.59),
    "Teacher-Mix": (45.51, 40.57, 21.95, 11.85, 57.39, 75.21, 61.56, 68.60),
    "Teacher-Only": (41.32, 36.57, 22.10, 8.73, 55.81, 76.88, 66.46, 67.76),
    "TESSY": (62.87, 55.43, 36.69, 25.43, 59.34, 80.42, 70.10, 69.80),
}
