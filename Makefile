.PHONY: train test check format benchmarks experiments

train:  ## install, and train on the text that ships with Python
	pip install -e . && steepest train --time 3m

test:  ## install with the development tools, and run every test
	pip install -e '.[dev]' && pytest

check:  ## what continuous integration runs
	ruff format --check .
	ruff check .
	mypy
	pytest

experiments:  ## measure every claim of docs/claims.md anew (about fifteen minutes on one core)
	python experiments/claim.py

format:
	ruff format .
	ruff check --fix .
