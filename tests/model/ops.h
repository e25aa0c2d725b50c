/*
 * What the model of operations on a child is made of: the child's file, what
 * the driver has in memory, and requests under way.  All of it is one struct,
 * which is the state that spin keeps; each function is one step, of which the
 * disk or another request sees nothing in between.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_OPS_H
#define MODEL_OPS_H

#include <assert.h>
#include "cell.h"

enum {
    BLOCKS = 2,
    SECTORS = 2,        /* of a block */
    WHOLE = (1 << SECTORS) - 1,
    PLACES = 3,         /* for payload blocks */
    GUESTS = 3,
    ALLOCS = GUESTS,
};

/* What DEFECT names, in the order of defect_names */
enum {
    NO_BARRIER = 1, KNOWN_ZERO_NO_BARRIER, BAT_FIRST, BAT_RISING,
    BITS_NOT_CLEARED, SECOND_CLEARS, ZERO_TO_PARTIAL, NOT_LOOKED_AGAIN,
    FREED_COMES_BACK, PLACE_NOT_COMPARED, FULL_TOO_EARLY, ZERO_WITHOUT_BITS,
    ZERO_OVER_ABSENT, NOT_ZEROED, FREED_AT_ONCE, NO_TICKETS, APPLIED_EARLY,
    PARENT_NOT_FLUSHED, EMPTY_UNCOMMITTED, EMPTY_NOT_COMMITTED,
};

static const char *const defect_names[] = {
    "no-barrier", "known-zero-no-barrier", "bat-first", "bat-rising",
    "bits-not-cleared", "second-clears", "zero-to-partial", "not-looked-again",
    "freed-comes-back", "place-not-compared", "full-too-early",
    "zero-without-bits", "zero-over-absent", "not-zeroed", "freed-at-once",
    "no-tickets", "applied-early", "parent-not-flushed", "empty-uncommitted",
    "empty-not-committed-before",
};

static int defect;

/* States of a block */
enum { NOT_PRESENT = 0, ZEROS = 2, FULLY_PRESENT = 6, PARTIALLY_PRESENT = 7 };

/* The pages of the log: bits, entries of the blocks, entry of the bitmap */
enum { BITS, ENTRIES, BITMAP_ENTRY, PAGES };

/* A page's versions.  In place, a write may be in the disk's cache. */
typedef struct Page {
    uint16_t now;
    uint16_t committing;
    uint16_t logged;    /* stable there */
    uint16_t place;     /* stable in place */
    uint16_t put;       /* written there since */
    uint8_t dirty;
    uint8_t taken;      /* by the commit under way */
    uint8_t in_log;     /* a replay will put it in place */
    uint8_t is_put;
    uint8_t flushing;   /* it was put before the flush under way began */
} Page;

enum { FREE, USED, FREED, COMMITTING, COMMITTED };

typedef struct Place {
    Cell sector[SECTORS];
    uint8_t state;
    uint8_t zero;       /* known to read as zeros */
} Place;

enum { NEW, PREPARING, READY, PUBLISHED };

/* A place that a block is to get */
typedef struct Alloc {
    uint8_t refs;
    uint8_t block;
    uint8_t place;
    uint8_t phase;
    uint8_t partial;    /* the block's other sectors are the parent's */
    uint8_t barrier;
    uint8_t detached;
} Alloc;

enum {
    WRITE, ZERO_WHOLE, ZERO_PART, DISCARD_PART, COPY_ON_READ, KINDS,
    FLUSH = KINDS, MAKE_EMPTY,
};

typedef struct Request {
    uint8_t active;
    uint8_t kind;
    uint8_t block;
    uint8_t mask;       /* which of its sectors */
    uint8_t place;      /* from 1 on */
    uint8_t alloc;      /* the same */
    uint8_t zeroing;    /* its place, before it writes there */
    uint8_t writing;
    uint8_t lost;       /* what it wrote does not count */
    Values value;
    Values beside[SECTORS];     /* written to the file meanwhile by others */
    Values saw[SECTORS];        /* ended meanwhile */
} Request;

typedef struct Model {
    Cell guest[BLOCKS][SECTORS];        /* what must be seen */
    Cell parent[BLOCKS][SECTORS];
    Place places[PLACES];
    Page pages[PAGES];
    Alloc allocs[ALLOCS];
    Request requests[GUESTS];
    uint8_t ops;        /* that may still begin */
    uint8_t order;      /* the next commit needs the barrier */
    uint8_t barrier;    /* the one under way does */
    uint8_t commit_lock;
    uint8_t written;    /* pages of the commit that are in the log */
    uint8_t frozen;
} Model;

static Model m;

/* From MODEL */
static int guests, blocks, places, kinds, starts;

/* A discard of a part need not have any effect. */
static bool may_do_nothing(const Request *r)
{
    return r->kind == DISCARD_PART;
}

#include "requests.h"

static const char *const kind_names[] = {
    "write", "zero", "zero-part", "discard-part", "copy-on-read", "flush",
    "make-empty",
};

/* What another program may have left, see image_start() */
enum { NO_BITMAP, STALE_BITS, PARTLY_HERE, READS_ZEROS, STARTS };

static const char *const start_names[] = {
    "no-bitmap", "stale-bits", "partly-here", "reads-zeros",
};

/* -- Entries -- */

static int entry(uint16_t page, int block)
{
    return page >> block * 8 & 0xff;
}

static int entry_state(int e)
{
    return e & 7;
}

static int entry_place(int e)
{
    return e >> 3;
}

static bool is_present(int e)
{
    return entry_state(e) >= FULLY_PRESENT;
}

static int bits_of(uint16_t page, int block)
{
    return page >> block * SECTORS & WHOLE;
}

static void page_set(int page, uint16_t value)
{
    m.pages[page].now = value;
    m.pages[page].dirty = true;
}

static void bat_set(int block, int state, int place)
{
    uint16_t now = m.pages[ENTRIES].now & ~(0xff << block * 8);

    page_set(ENTRIES, now | (state | place << 3) << block * 8);
}

static int bat_get(int block)
{
    return entry(m.pages[ENTRIES].now, block);
}

/* -- What is under way -- */

/* Writes to sector @i of @place that have begun */
static Values flying_in(int place, int i)
{
    Values flying = 0;

    for (int g = 0; g < guests; g++) {
        Request *r = &m.requests[g];

        if (r->writing && r->place == place + 1 && r->mask >> i & 1) {
            flying |= r->value;
        }
    }
    for (int a = 0; a < ALLOCS; a++) {
        if (m.allocs[a].refs && m.allocs[a].phase == PREPARING &&
            m.allocs[a].place == place) {
            flying |= ZERO;
        }
    }
    return flying;
}

/* Requests to sector @i of @block that have begun */
static Values flying_to(int block, int i)
{
    Values flying = 0;

    for (int g = 0; g < guests; g++) {
        Request *r = &m.requests[g];

        if (r->active && r->kind != COPY_ON_READ && r->block == block &&
            r->mask >> i & 1) {
            flying |= r->value;
        }
    }
    return flying;
}

/* What is read of sector @i of @block */
static Values read_now(int block, int i)
{
    int e = bat_get(block), place = entry_place(e);

    if (entry_state(e) == ZEROS) {
        return ZERO;
    }
    if (entry_state(e) == FULLY_PRESENT ||
        (entry_state(e) == PARTIALLY_PRESENT &&
         bits_of(m.pages[BITS].now, block) >> i & 1)) {
        return m.places[place].sector[i].now | flying_in(place, i);
    }
    return m.parent[block][i].now;
}

/* -- Beginning and end of requests -- */

/* As the block layer has it, copies on read have no other request beside. */
static bool is_beside_copy(int kind, int block, int mask)
{
    for (int g = 0; g < guests; g++) {
        Request *r = &m.requests[g];

        if (r->active && r->block == block && r->mask & mask &&
            (r->kind == COPY_ON_READ || kind == COPY_ON_READ)) {
            return true;
        }
    }
    return false;
}

/* Guests are alike: one begins only if those before it are at work. */
static bool guest_is_next(int guest)
{
    for (int g = 0; g < guest; g++) {
        if (!m.requests[g].active) {
            return false;
        }
    }
    return guest < guests && !m.requests[guest].active && m.ops && !m.frozen;
}

/* A request that is no write to a sector: flush, make_empty */
static void request_begin_other(int guest, int kind)
{
    m.requests[guest] = (Request) { .active = true, .kind = kind };
    m.ops--;
}

static void alloc_unref(Request *r)
{
    Alloc *a = &m.allocs[r->alloc - 1];

    if (r->alloc && --a->refs == 0) {
        if (a->phase != PUBLISHED) {
            m.places[a->place].state = FREE;
        }
        memset(a, 0, sizeof(*a));
    }
    r->alloc = 0;
}

/* A request ends: what was under way beside it may have won over it. */
static void request_end(int guest)
{
    Request *r = &m.requests[guest];

    alloc_unref(r);
    if (r->kind < COPY_ON_READ) {
        guest_written(r);
    }
    memset(r, 0, sizeof(*r));
}

#endif
