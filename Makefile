PYTHON := .venv/bin/python
LAB := bench-$(shell date +%s)

.PHONY: test lint bench

# Everything, on a real libvirt host of its own.
test:
	scripts/test

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PYTHON) scripts/generate-plugin-yaml --check
	$(PYTHON) scripts/generate-docs --check
	$(PYTHON) scripts/schema-coverage --check

# Measures in a private libvirt host, prints a table and writes docs/performance.md; some 15 minutes.
# On a quiet machine: other work shows in the figures.
bench:
	scripts/build-guest tiny
	scripts/lab --name $(LAB) up
	scripts/lab --name $(LAB) exec env CLOUDIFY_LIBVIRT_LAB=$(LAB) $(PYTHON) -W ignore -m bench $(BENCH); \
	    code=$$?; scripts/lab --name $(LAB) down --purge; exit $$code
