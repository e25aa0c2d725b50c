/*
 * A file with a log, for the models of one operation on an image
 *
 * It has some pages, which are written in place or by way of the log; there an
 * entry has one page.  A cut leaves of each page any version since the last
 * flush, and of the log what is stable and any number of entries behind that.
 * A flush takes one step.  How the log gets its space is in the log's model.
 *
 * A model says before it includes this how many pages there are: PAGES.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_DISK_H
#define MODEL_DISK_H

#include <assert.h>
#include "cell.h"

enum { VERSIONS = 8, ENTRIES = 16, TAIL = PAGES };

/* The first version is stable, the last what is read now. */
typedef struct Page {
    uint8_t version[VERSIONS];
    uint8_t count;
} Page;

/* A page in the log; TAIL: no replay needs the entries before */
typedef struct Entry {
    uint8_t page, value;
} Entry;

typedef struct Disk {
    Page page[PAGES];
    Entry log[ENTRIES];
    uint8_t count;              /* of entries */
    uint8_t stable;             /* of these */
    uint8_t applied;            /* of these, in place but maybe not stable */
} Disk;

/* What a recovery finds, or makes of that */
typedef struct Left {
    uint8_t page[PAGES];
} Left;

/* What is wrong; not part of the state */
static char wrong[120];

static inline void page_start(Disk *d, int page, uint8_t value)
{
    d->page[page] = (Page) { .version[0] = value, .count = 1 };
}

/* Every page is 0, and the log empty. */
static inline void disk_start(Disk *d)
{
    memset(d, 0, sizeof(*d));
    for (int page = 0; page < PAGES; page++) {
        page_start(d, page, 0);
    }
}

static inline uint8_t page_now(const Disk *d, int page)
{
    return d->page[page].version[d->page[page].count - 1];
}

static inline void page_write(Disk *d, int page, uint8_t value)
{
    Page *p = &d->page[page];

    if (page_now(d, page) != value) {
        assert(p->count < VERSIONS);
        p->version[p->count++] = value;
    }
}

static inline void log_write(Disk *d, int page, uint8_t value)
{
    assert(d->count < ENTRIES);
    d->log[d->count++] = (Entry) { .page = page, .value = value };
}

/* All that was written is stable; no one asks for entries before a tail. */
static inline void disk_flush(Disk *d)
{
    int gone = 0;

    for (int page = 0; page < PAGES; page++) {
        page_start(d, page, page_now(d, page));
    }
    for (int i = 0; i < d->count; i++) {
        gone = d->log[i].page == TAIL ? i + 1 : gone;
    }
    d->count -= gone;
    memmove(d->log, d->log + gone, d->count * sizeof(*d->log));
    memset(d->log + d->count, 0, gone * sizeof(*d->log));
    d->stable = d->count;
    d->applied = d->applied > gone ? d->applied - gone : 0;
}

/* A page goes in place when it is stable in the log. */
static inline bool may_apply(const Disk *d)
{
    return d->applied < d->stable;
}

static inline void apply(Disk *d)
{
    const Entry *entry = &d->log[d->applied++];

    if (entry->page != TAIL) {
        page_write(d, entry->page, entry->value);
    }
}

static inline void apply_all(Disk *d)
{
    while (may_apply(d)) {
        apply(d);
    }
}

/* What a replay of the first @count entries makes of @left */
static inline void replay(const Disk *d, int count, Left *left)
{
    int first = count;

    while (first > 0 && d->log[first - 1].page != TAIL) {
        first--;
    }
    for (int i = first; i < count; i++) {
        left->page[d->log[i].page] = d->log[i].value;
    }
}

/*
 * Set @left to what a recovery has after the @choice-th of all cuts that are
 * possible now.  Whether there is one
 */
static inline bool disk_left(const Disk *d, int choice, Left *left)
{
    int most = d->count - d->stable + 1;

    for (int page = 0; page < PAGES; page++) {
        const Page *p = &d->page[page];

        left->page[page] = p->version[choice % p->count];
        choice /= p->count;
    }
    replay(d, d->stable + choice % most, left);
    return choice / most == 0;
}

/* Whether @what holds of what some cut leaves now */
static inline bool some_left(const Disk *d, bool (*what)(const Left *left))
{
    Left left;

    for (int choice = 0; disk_left(d, choice, &left); choice++) {
        if (what(&left)) {
            return true;
        }
    }
    return false;
}

static inline bool say_wrong(const char *what)
{
    snprintf(wrong, sizeof(wrong), "after a cut %s", what);
    return true;
}

#endif
