# make quickstart   set up, train and average the small cross-validation on the drawn city (minutes on a CPU)
# make test         set up and run the tests
# make crash        kill a small cross-validation 20 times and compare the resumed runs with one that nobody killed
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# processes that share the test files; the tests' maps are too small to keep several threads of one process busy
WORKERS ?= 2

.PHONY: quickstart test crash lint clean

quickstart: $(VENV)/.run
	$(BIN)/python train.py configs/deeplabv3plus_cv.yaml
	$(BIN)/python eval.py --aggregate top3

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

crash: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.crash

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt requirements-extra.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -r requirements.txt -r requirements-extra.txt
	touch $@

$(VENV)/.dev: requirements.txt requirements-extra.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -r requirements-dev.txt
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV)
