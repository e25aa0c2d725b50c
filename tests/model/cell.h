/*
 * A sector on a disk with a volatile cache, for the models
 *
 * What a sector holds is one of up to sixteen values, each a bit.  A cut leaves
 * what is stable or any value that has been written since: that is a set.
 *
 * A flush takes what was there when it began.  So the same four sets say what a
 * guest may see after a cut, if its requests are taken for writes, and its
 * flushes for flushes.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_CELL_H
#define MODEL_CELL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t Values;

enum {
    ZERO = 1,           /* reads as zeros */
    OLD = 2,            /* what nobody knows: another's data, garbage */
    PARENT = 4,         /* what the parent had at first */
    FIRST_WRITE = 8,    /* of the first request; shifted for the next */
};

typedef struct Cell {
    Values may;         /* what a cut may leave */
    Values now;         /* what a reader sees, but for writes under way */
    Values sure;        /* what the flush under way will leave at the least */
    Values since;       /* what has been written since that began */
} Cell;

static inline void cell_set(Cell *c, Values value)
{
    *c = (Cell) { .may = value, .now = value };
}

static inline Values cell_values(const Cell *c)
{
    return c->may | c->now | c->sure | c->since;
}

/* A write of @value begins. */
static inline void cell_write(Cell *c, Values value)
{
    c->may |= value;
    c->since |= value;
}

/* It ends; @beside is what may have won over it, as it was under way too. */
static inline void cell_written(Cell *c, Values value, Values beside)
{
    c->now = value | beside;
}

/* A flush begins, while writes of @flying are under way. */
static inline void cell_flush(Cell *c, Values flying)
{
    c->sure = c->now | flying;
    c->since = 0;
}

static inline void cell_flushed(Cell *c)
{
    c->may = c->sure | c->since;
    c->sure = c->since = 0;
}

/* What stands behind "name=" in the words of the variable MODEL, or NULL */
static inline const char *model_word(const char *name)
{
    const char *at = getenv("MODEL");
    size_t length = strlen(name);

    while (at && *at) {
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            return at + length + 1;
        }
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return NULL;
}

/* A number there, or @otherwise */
static inline int model_option(const char *name, int otherwise)
{
    const char *word = model_word(name);

    return word ? atoi(word) : otherwise;
}

/* Some of @names there, with "+" between them, as bits; or all of them */
static inline int model_set(const char *name, const char *const *names,
                            int count)
{
    const char *at = model_word(name);
    int set = 0;

    if (!at) {
        return (1 << count) - 1;
    }
    for (;;) {
        size_t length = strcspn(at, "+ ");
        int i = 0;

        while (i < count && (strlen(names[i]) != length ||
                             strncmp(names[i], at, length) != 0)) {
            i++;
        }
        if (i == count) {
            fprintf(stderr, "%s has no %.*s\n", name, (int)length, at);
            exit(2);
        }
        set |= 1 << i;
        if (at[length] != '+') {
            return set;
        }
        at += length + 1;
    }
}

/*
 * Which of @names the variable DEFECT is: counted from 1, 0 if there is none.
 * One that is not there ends the program.
 */
static inline int model_defect(const char *const *names, int count)
{
    const char *wanted = getenv("DEFECT");

    if (!wanted || !*wanted) {
        return 0;
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], wanted) == 0) {
            return i + 1;
        }
    }
    fprintf(stderr, "no defect has the name %s\n", wanted);
    exit(2);
}

#endif
