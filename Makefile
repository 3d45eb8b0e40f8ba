# Everyday commands. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help install format lint types test soak check demo clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install:  ## editable install with everything, at the tested versions
	pip install -c constraints.txt -e ".[dev]"

format:  ## sort imports, fix what ruff can fix, format
	ruff check --fix .
	ruff format .

lint:  ## ruff, changing nothing
	ruff check .

types:  ## mypy over the package
	mypy

test:  ## all tests on two processes
	OMP_NUM_THREADS=1 pytest -q -n 2

soak:  ## does memory grow? pipeline, training, endpoint and demo under load; five minutes
	OMP_NUM_THREADS=1 pytest -q -m soak tests/test_soak.py

check:  ## what the CI runs, in a clean environment
	.ci/run

demo:  ## train on the generated corpus
	accelerate launch examples/run_sentiment.py --output_dir runs/talking_faces

clean:  ## remove build products
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
