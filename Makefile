# SPDX-License-Identifier: GPL-3.0-or-later
# One line each; what they do is in tools/. Everything that they make is in .cache/, except the lab's: running labs in
# /var/lib/marzban-tunnels-lab, root file systems in /var/cache/marzban-tunnels-lab.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# Virtual environments are made when a recipe first asks for one, and again when their lock changes.
venv = $$(tools/venv $(1))
# Second cases of what another test shows are for ALL=1.
some = $(if $(ALL),,-m "not variation")
# $(call pytest,purpose,tests,options); PYTEST may name other tests instead. Some machines name a bundle of CAs that requests prefers to the
# one a client was given; on some Python keeps nothing of what it compiled, which each pytest and each panel would compile again.
pytest = env -u REQUESTS_CA_BUNDLE -u CURL_CA_BUNDLE -u PYTHONDONTWRITEBYTECODE "$(call venv,$(1))/bin/python" -m pytest $(3) $(if $(findstring tests/,$(PYTEST)),,$(2)) $(PYTEST)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo demo-down
demo: ## three lab hosts, a panel, tunnels between them, and a table of what passes
	@tools/preflight && tools/demo up

demo-down: ## takes the demo down; Debian packages and cached root file systems stay
	@tools/preflight && tools/demo down

.PHONY: test test-all test-matrix
test: ## lint, sanity, unit, panel, browser and integration tests, build (log of each: .cache/logs)
	@tools/preflight && ALL=$(ALL) tools/stages 'unit lint build panel test-contract' 'sanity panel-marzban browser' then integration then molecule $(if $(ALL),then test-kernel)

test-all: ## the same with every variation of what it shows, and the kernel's own data paths
	@$(MAKE) test ALL=1

test-matrix: ## import, sanity and units on ansible-core 2.17 to 2.21, integration on the oldest and the newest
	@tools/preflight && tools/matrix

.PHONY: lint docs-lint sanity
lint: ## ruff, mypy, yamllint, shellcheck, ansible-lint, antsibull
	@tools/lint

docs-lint: ## only what concerns the documentation in plugins and roles
	@tools/lint antsibull-docs antsibull-changelog

sanity: ## ansible-test sanity without ignore files; ALL=1 on all Pythons, SANITY="--test pep8" for one test
	@ALL=$(ALL) tools/sanity test -- $(SANITY)

.PHONY: unit panel test-contract panel-marzban integration molecule test-kernel bench
unit: ## unit tests; PYTEST="-k name -x" for some of them, likewise below
	@$(call pytest,test,tests/unit)

panel: ## the embedded panel's tests, on the newest versions of its libraries; ALL=1 for every variation, likewise below
	@$(call pytest,test,tests/panel,$(some))

test-contract: ## the API over every door but the stand-in's; MARZBAN_SRC=<checkout> for a real Marzban's as well
	@DOORS="$(or $(DOORS),standalone marzban-sqlite marzban-mariadb)" $(call pytest,test,tests/contract,$(some))

panel-marzban: ## the contract in the stand-in for Marzban, and the migrations, on the versions that Marzban 0.8.4 pins
	@DOORS=mounted $(call pytest,marzban-0.8.4,tests/contract tests/panel/test_panel_mounted.py tests/panel/test_panel_migrations.py,--ignore tests/contract/test_properties.py -k "not postgresql" $(some))

# On a network of its own: Chromium ends its requests when one of the machine's interfaces comes or goes, and labs have many.
browser: ## the page, in a real Chromium
	@"$(call venv,test)/bin/python" -c 'from tests.support import chromium, marzban; chromium.executable(); marzban.source() and marzban.python()'
	@unshare --net sh -c 'ip link set lo up && exec "$$@"' sh $(call pytest,test,tests/browser)

screenshot: ## docs/page.png and docs/page-history.png, out of the page with samples
	@"$(call venv,test)/bin/python" -m tests.browser.screenshot docs/page.png docs/page-history.png

guide: ## docs/trouble.md, as the panel serves it
	@"$(call venv,test)/bin/python" tools/guide.py

integration: ## the collection on lab hosts; ALL=1 for every variation, PURPOSE=core-2.17 for that ansible-core
	@tools/preflight && $(call pytest,$(or $(PURPOSE),test),tests/integration,--numprocesses 3 --dist loadfile --no-loadscope-reorder --verbose --durations 30 $(some))

molecule: ## molecule's scenarios: each role, and the whole with a panel (extensions/molecule)
	@tools/preflight && tools/molecule

test-kernel: ## the kernel's own WireGuard, ESP and OpenVPN, in a virtual machine (emulated, three to six minutes)
	@tools/preflight && $(call pytest,test,tests/kernel,--verbose --durations 10)

bench: ## what runs cost, as ratios, into .cache/bench; BENCH="mesh ring" for some rows, REPEATS=1 for a rough look
	@tools/preflight && $(call pytest,test,tests/bench,-s -v)

.PHONY: setup lock build clean
setup: ## only the virtual environment, and the link under which this checkout is marzban.tunnels
	@tools/venv test >/dev/null

lock: ## requirements/*.txt out of requirements/*.in; UPGRADE=1 takes the newest versions
	@UPGRADE=$(UPGRADE) tools/lock

build: ## the collection as a file, in .cache/build
	@tools/build

clean: ## removes .cache (make demo-down first)
	@rm -rf .cache
