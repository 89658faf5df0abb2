# incbatch: build with `make`, install with `make install`, and run the SQL
# tests against a temporary server of their own with `make installcheck`
# (as an ordinary user).  The whole suite is test/check.

MODULE_big = incbatch
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))

EXTENSION = incbatch
DATA = sql/incbatch--1.0.sql

# One topic a file; the order is the order of the story they tell.
REGRESS = setup $(filter-out setup,$(patsubst sql/%.sql,%,$(filter-out sql/incbatch--%.sql,$(sort $(wildcard sql/*.sql)))))
REGRESS_OPTS = --temp-instance=tmp_check --temp-config=test/server.conf --no-locale --encoding=UTF8
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --temp-instance=tmp_check_iso --temp-config=test/server.conf

PG_CPPFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare
EXTRA_CLEAN = tmp_check tmp_check_iso

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# Structs are shared through headers: a changed one rebuilds everything.
$(OBJS): $(wildcard src/*.h)
