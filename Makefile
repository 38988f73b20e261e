# Installs the tools with their manual pages, completions, licences and documentation; and for programs
# written for netmap nm-run, the library that it preloads, and C headers.
#
#   make                           builds the tools (release), their pages and completions
#   make install PREFIX=/usr       default: /usr/local
#   make install DESTDIR=/tmp/x    into a tree of its own, as packages are made
#   make uninstall                 removes what install made, with the same PREFIX and DESTDIR
#
# PROFILE=dev takes the tools of a debug build.

PREFIX ?= /usr/local
DESTDIR ?=
PROFILE ?= release
CARGO ?= cargo
INSTALL ?= install

bindir ?= $(PREFIX)/bin
datadir ?= $(PREFIX)/share
mandir ?= $(datadir)/man
docdir ?= $(datadir)/doc/vale-rs
bashdir ?= $(datadir)/bash-completion/completions
zshdir ?= $(datadir)/zsh/site-functions
fishdir ?= $(datadir)/fish/vendor_completions.d
# Where nm-run looks for the library, and where C compilers look for headers.
librarydir ?= $(PREFIX)/lib/vale-rs
includedir ?= $(PREFIX)/include

tools := nm-pktgen nm-bridge vale-ctl e1000pv-vmm
library := libnetmap_preload.so
headers := netmap.h netmap_legacy.h netmap_user.h
target := $(or $(CARGO_TARGET_DIR),target)
# Cargo's directory of a profile has its name, but for dev.
built := $(target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
dist := $(target)/dist
documents := README.md CHANGELOG.md docs/compatibility.md docs/trust.md docs/troubleshooting.md
licences := LICENSE-APACHE LICENSE-MIT

.PHONY: all build pages ready install uninstall

all: build pages

build:
	$(CARGO) build --locked --profile $(PROFILE) $(addprefix -p ,$(tools)) -p netmap-preload

# Made anew, so that nothing of another version is installed.
pages:
	rm -rf $(dist)/man $(dist)/completions
	$(CARGO) run --locked --quiet --profile $(PROFILE) -p xtask -- man $(dist)/man >/dev/null
	$(CARGO) run --locked --quiet --profile $(PROFILE) -p xtask -- completions $(dist)/completions >/dev/null

# Root, for whom sudo installs, may lack a cargo: then what was built before is taken.
ready:
	if command -v $(CARGO) >/dev/null; then $(MAKE) all; \
	elif [ ! -x $(built)/nm-pktgen ] || [ ! -f $(dist)/man/vale.7 ]; then \
	    echo "cargo was not found, and nothing was built: run make first" >&2; exit 1; fi

install: ready
	for tool in $(tools); do \
	    $(INSTALL) -D -m 755 "$(built)/$$tool" "$(DESTDIR)$(bindir)/$$tool" && \
	    $(INSTALL) -D -m 644 "$(dist)/completions/$$tool.bash" "$(DESTDIR)$(bashdir)/$$tool" && \
	    $(INSTALL) -D -m 644 "$(dist)/completions/_$$tool" "$(DESTDIR)$(zshdir)/_$$tool" && \
	    $(INSTALL) -D -m 644 "$(dist)/completions/$$tool.fish" "$(DESTDIR)$(fishdir)/$$tool.fish" || exit 1; \
	done
	$(INSTALL) -D -m 755 scripts/nm-run "$(DESTDIR)$(bindir)/nm-run"
	$(INSTALL) -D -m 644 "$(built)/$(library)" "$(DESTDIR)$(librarydir)/$(library)"
	for header in $(headers); do \
	    $(INSTALL) -D -m 644 "lib/netmap-preload/include/net/$$header" \
	        "$(DESTDIR)$(includedir)/net/$$header" || exit 1; \
	done
	for page in $(dist)/man/*.[78]; do \
	    $(INSTALL) -D -m 644 "$$page" "$(DESTDIR)$(mandir)/man$${page##*.}/$${page##*/}" || exit 1; \
	done
	for file in $(documents) $(licences); do \
	    $(INSTALL) -D -m 644 "$$file" "$(DESTDIR)$(docdir)/$${file##*/}" || exit 1; \
	done

# Only what has a name of ours is removed, and directories that are ours alone.
uninstall:
	for tool in $(tools); do \
	    rm -f "$(DESTDIR)$(bindir)/$$tool" "$(DESTDIR)$(bashdir)/$$tool" \
	        "$(DESTDIR)$(zshdir)/_$$tool" "$(DESTDIR)$(fishdir)/$$tool.fish" \
	        "$(DESTDIR)$(mandir)/man8/$$tool.8" "$(DESTDIR)$(mandir)/man8/$$tool"-*.8 || exit 1; \
	done
	for header in $(headers); do rm -f "$(DESTDIR)$(includedir)/net/$$header" || exit 1; done
	rm -f "$(DESTDIR)$(bindir)/nm-run" "$(DESTDIR)$(mandir)/man8/nm-run.8" "$(DESTDIR)$(mandir)/man7/vale.7"
	rm -rf "$(DESTDIR)$(librarydir)"
	rm -rf "$(DESTDIR)$(docdir)"
