/*
 * What the model of the log is made of: the file on a disk with a cache, and
 * what the driver has in memory.  All of it is one struct, which is the state
 * that spin keeps; each function is one step, of which the disk or another
 * request sees nothing in between.
 *
 * A block has its BAT entry in a page of its own: 0, or a place counted from 1.
 * The file's length is counted in places.  An entry of the log is one slot.
 *
 * A tag, such as [data-barrier], stands for a rule: README.md has a table.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_LOG_H
#define MODEL_LOG_H

#include <assert.h>
#include "cell.h"

#ifdef MODEL_OF_TRACES
#include "trace-size.h"
#else
enum {
    BLOCKS = 3,
    SECTORS = 2,        /* of a block, at the most */
    PLACES = 4,
    GUESTS = 3,
    ALLOCS = GUESTS,
    SLOTS = 5,
    WRITTEN = 2,        /* what of a slot's writes is kept apart */
};

typedef uint8_t Count;

/* A value that a cell may hold */
#define VALUE(n) (1 << (n))

/* Where the page of @block says that it is */
#define PAGE_SET(block, entry) (m.pages[block].now = (entry))
#define PAGE_OF(block) (&m.pages[block])
#endif

/* What DEFECT names, in the order of defect_names */
enum {
    NO_BARRIER = 1, HOLE_NO_BARRIER, TWO_PLACES, PUBLISHED_FIRST, NOT_ZEROED,
    OLD_FOR_ZERO, FREED_FOR_ZERO, TOUCHED_FOR_ZERO, NEWEST_WRITTEN,
    APPLIED_EARLY, MENDED_IN_PLACE, FLUSH_LEFT_OUT, TAIL_AT_APPLIED,
    SAFE_AT_APPLY, RELEASED_EARLY, CHECKPOINT_UNAPPLIED, CHECKPOINT_UNFLUSHED,
    NO_RESERVE, NO_ROOM, FREED_AT_ONCE, FAILED_COMMIT_FREES, NO_TICKETS,
    FREED_SHARED, NAMED_EMPTY, HEADERS_TOGETHER, CURRENT_FIRST,
    CLOSED_UNFLUSHED, CLOSED_UNAPPLIED, REPLAY_UNFLUSHED, REPLAY_FORGETS_LOG,
    REPLAY_SHORT, LOG_OVERWRITTEN, TAIL_FOR_ZERO, GENERATION_TOO_NEW,
    NOT_COUNTED, FLUSHED_OFFSET_NOW, FLUSHED_OFFSET_LATE, LAST_OFFSET_SHORT,
    TRIM_BEFORE_CLOSE, CUT_UNANNOUNCED, CUT_UNFLUSHED, RETRIED_FURTHER_ON,
    FAILED_PAGES_CLEAN, MOVED_UNFLUSHED, MOVED_FREED_AT_ONCE, MOVED_UNFROZEN,
    FAILED_LEFT, NEVER_LATCHED, RESUME_TRUSTS_LOG, RESUME_TRUSTS_PLACED,
    RESUME_LOST_DATA, PUBLISHED_UNDONE, EARLY_OLD, EARLY_BARRIER,
    EARLY_UNPUBLISHED, EARLY_UNLOCKED, EARLY_STABLE, EARLY_FREES,
    EARLY_UNSETTLED, EARLY_COUNTS_APPLIED, EARLY_NO_ROOM, EARLY_NOT_COUNTED,
    EARLY_FAILED_CLEAN, EARLY_NOT_LATCHED,
};

static const char *const defect_names[] = {
    "no-barrier", "hole-no-barrier", "two-places", "published-first",
    "not-zeroed", "old-for-zero", "freed-for-zero", "touched-for-zero",
    "newest-written", "applied-early", "mended-in-place", "flush-left-out",
    "tail-at-applied", "safe-at-apply", "released-early",
    "checkpoint-unapplied", "checkpoint-unflushed", "no-reserve", "no-room",
    "freed-at-once", "failed-commit-frees", "no-tickets", "freed-shared",
    "named-empty", "headers-together", "current-first", "closed-unflushed",
    "closed-unapplied", "replay-unflushed", "replay-forgets-log",
    "replay-short", "log-overwritten", "tail-for-zero", "generation-too-new",
    "not-counted", "flushed-offset-now", "flushed-offset-late",
    "last-offset-short", "trim-before-close", "cut-unannounced",
    "cut-unflushed", "retried-further-on", "failed-pages-clean",
    "moved-unflushed", "moved-freed-at-once", "moved-unfrozen",
    "failed-left", "never-latched", "resume-trusts-log",
    "resume-trusts-placed", "resume-lost-data", "published-undone",
    "early-old", "early-barrier", "early-unpublished", "early-unlocked",
    "early-stable", "early-frees", "early-unsettled", "early-counts-applied",
    "early-no-room", "early-not-counted", "early-failed-clean",
    "early-not-latched",
};

static int defect;

/* -- The file -- */

typedef struct Header {
    Count sequence;   /* 0 where it is torn, or damaged */
    Count log;        /* whose name it has, or 0 */
} Header;

typedef struct Entry {
    Count log;        /* whose it is; 0 if there is none, or a torn one */
    Count sequence;
    Count tail;       /* a slot */
    Count flushed;    /* FlushedFileOffset */
    Count last;       /* LastFileOffset */
    Count page[BLOCKS];       /* the block's entry plus 1, or 0: not in it */
} Entry;

typedef struct HeaderCell {
    Header stable, written;
    Count is_written;         /* since the last flush */
} HeaderCell;

typedef struct SlotCell {
    Entry stable, written[WRITTEN];
    Count writes;
    Count lost;               /* the last of them, by a flush that failed */
    Count flying;             /* it is under way */
} SlotCell;

/* The metadata, and the length, each value of which is a bit */
typedef struct Disk {
    HeaderCell header[2];
    SlotCell slot[SLOTS];
    Cell page[BLOCKS];          /* 1 << entry */
    Cell length;                /* 1 << length */
} Disk;

/* -- In memory -- */

typedef struct Page {
    Count now;
    Count committing;
    Count logged;     /* stable there */
    Count dirty;
    Count taken;      /* by the commit under way */
    Count written;    /* ... and in the log */
    Count in_log;     /* not stable in place */
    Count put;        /* written in place */
    Count flushing;   /* ... before the flush under way began */
} Page;

enum { BEYOND, FREE, USED, FREED, COMMITTING, COMMITTED };

typedef struct Place {
    Cell sector[SECTORS];
    Count state;
    Count zero;       /* known to read as zeros */
} Place;

enum { NEW, PREPARING, READY, PUBLISHED };

/* A place that a block is to get */
typedef struct Alloc {
    Count refs;
    Count block;
    Count place;
    Count phase;
    Count barrier;
    Count zero;       /* it was known to */
    Count touched;    /* a write there has begun */
    Count detached;
    Count early;      /* published while its data is written */
} Alloc;

enum { WRITE, DISCARD, FLUSH, MOVE, PUNCH, CUT, CLOSE, EARLY, KINDS };

typedef struct Request {
    Count active;
    Count kind;
    Count block;
    Count mask;       /* which of its sectors */
    Count place;      /* from 1 on */
    Count alloc;      /* the same */
    Count zeroing;    /* its place, before it writes there */
    Count writing;
    Count failed;     /* or a flush meanwhile: it may have no effect */
    Values value;
    Values beside[SECTORS];     /* written to the file meanwhile by others */
    Values saw[SECTORS];        /* ended meanwhile */
} Request;

/* The ring, as in struct VHDXLog */
typedef struct Ring {
    Count log;        /* its GUID */
    Count sequence;   /* of the newest entry */
    Count head;       /* the slot of the next */
    Count used;       /* slots before it that may not be overwritten */
    Count tail;       /* as the newest entry has it */
    Count applied;    /* pages up to this entry are in place */
    Count safe;       /* ... and stable there */
    Count stable;     /* entries up to this one are */
    Count given_up;   /* the last one that was not written, or taken back */
} Ring;

typedef struct Model {
    Disk disk;
    Cell guest[BLOCKS][SECTORS];        /* what must be seen */
    Place places[PLACES];
    Page pages[BLOCKS];
    Alloc allocs[ALLOCS];
    Request requests[GUESTS];
    Ring ring;
    Count ops;        /* that may still begin */
    Count fails;      /* writes that may still fail */
    Count flush_fails;
    Count broken;     /* a flush of metadata has failed */
    Count unsure;     /* the file's length may have been lost */
    Count no_zeroes;  /* nothing is known to read as zeros any more */
    Count closes;     /* and cuts of the tail that may still be */
    Count cuts;
    Count open;       /* the log is */
    Count replaying;
    Count frozen;
    Count order;      /* the next commit needs the barrier */
    Count barrier;    /* the one under way does */
    Count changes;    /* that are complete, and not stable */
    Count taken;      /* of these, by the commit under way */
    Count commit_lock;
    Count grow_lock;
    Count committer;  /* the guest whose flush it is, from 1 on */
    Count writing;    /* entries that are not stable are in the log */
    Count early;      /* one of them was written beside data */
    Count early_write; /* it is being written */
    Count settling;   /* a commit makes that stable before it begins */
    Count header;     /* the copy that counts */
    Count header_to;  /* the copy that is written */
    Count sequence;   /* of the header that counts */
    Count size;       /* of the file, as it is known */
    Count stable_size;
    Count end;        /* of the last object */
    Count flushing;   /* a flush of the file is under way, */
    Count flush_size; /* as it began with this */
    Count flush_applied;
} Model;

static Model m;

/* From MODEL */
static int guests, blocks, sectors, places, slots, per_entry, kinds, starts;

/* What has failed need not have any effect. */
static bool may_do_nothing(const Request *r)
{
    return r->failed;
}

#include "requests.h"

static const char *const kind_names[] = {
    "write", "discard", "flush", "move", "punch", "cut", "close", "early",
};

static bool is_kind(int kind)
{
    return kinds >> kind & 1;
}

static int slot_at(int n)
{
    return (n + 2 * slots) % slots;
}

/* -- Writes to the file -- */

/* What is written there may be torn, and a write before it may show, too. */
static void slot_write(Disk *d, int slot, const Entry *entry)
{
    SlotCell *cell = &d->slot[slot];

    if (cell->writes == WRITTEN) {
        memmove(cell->written, cell->written + 1,
                sizeof(Entry) * (WRITTEN - 1));
        cell->writes--;
    }
    cell->written[cell->writes++] = *entry;
    cell->lost = false;
}

static void header_write(Disk *d, int copy, int sequence, int log)
{
    d->header[copy].written = (Header) { .sequence = sequence, .log = log };
    d->header[copy].is_written = true;
}

/* A write of one value, which has ended */
static void value_write(Cell *cell, int value)
{
    cell_write(cell, VALUE(value));
    cell_written(cell, VALUE(value), 0);
}

/*
 * Headers and entries are written by whoever flushes, so never meanwhile; but
 * for an entry beside its data.
 */
static void disk_flush_begin(Disk *d)
{
    for (int b = 0; b < BLOCKS; b++) {
        cell_flush(&d->page[b], 0);
    }
    cell_flush(&d->length, 0);
}

static void disk_flush_end(Disk *d)
{
    for (int i = 0; i < 2; i++) {
        if (d->header[i].is_written) {
            d->header[i] = (HeaderCell) { .stable = d->header[i].written };
        }
    }
    for (int i = 0; i < SLOTS; i++) {
        SlotCell *slot = &d->slot[i];

        if (slot->writes && !slot->lost && !slot->flying) {
            *slot = (SlotCell) { .stable = slot->written[slot->writes - 1] };
        }
    }
    for (int b = 0; b < BLOCKS; b++) {
        cell_flushed(&d->page[b]);
    }
    cell_flushed(&d->length);
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
        if (r->zeroing && r->place == place + 1) {
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

        if (r->active && r->block == block && r->mask >> i & 1) {
            flying |= r->value;
        }
    }
    return flying;
}

/* -- Flushes of the file -- */

static void file_flush_begin(void)
{
    assert(!m.flushing);
    m.flushing = true;
    for (int p = 0; p < places; p++) {
        for (int i = 0; i < sectors; i++) {
            cell_flush(&m.places[p].sector[i], flying_in(p, i));
        }
    }
    disk_flush_begin(&m.disk);
    for (int b = 0; b < blocks; b++) {
        m.pages[b].flushing = m.pages[b].put;
    }
    m.flush_size = m.size;
    m.flush_applied = m.ring.applied;
}

/* A flush fails: each write may be lost, and nobody will ever know. */
static void cell_lose(Cell *cell)
{
    cell->now = cell->may;
    cell->sure = cell->since = 0;
}

static void disk_lose(Disk *d)
{
    for (int i = 0; i < SLOTS; i++) {
        d->slot[i].lost = d->slot[i].writes > 0;
    }
    for (int b = 0; b < BLOCKS; b++) {
        cell_lose(&d->page[b]);
    }
    cell_lose(&d->length);
}

/* A page is stable in place, and the log not needed for it. */
static void page_settle(Page *page)
{
    page->in_log = page->put = page->flushing = false;
    page->logged = 0;
}

/*
 * The same in vhdx_ring_flush_data(), which believes from now on neither that
 * pages are in place nor that anything reads as zeros.
 */
static void file_flush_fail(void)
{
    m.flushing = m.flush_size = m.flush_applied = 0;
    m.unsure = m.no_zeroes = true;
    for (int g = 0; g < guests; g++) {
        m.requests[g].failed = m.requests[g].active;
    }
    for (int p = 0; p < places; p++) {
        m.places[p].zero = false;
        for (int i = 0; i < sectors; i++) {
            cell_lose(&m.places[p].sector[i]);
        }
    }
    disk_lose(&m.disk);
    for (int b = 0; b < blocks; b++) {
        if (defect == RESUME_TRUSTS_PLACED && m.pages[b].flushing) {
            page_settle(&m.pages[b]);
        }
        m.pages[b].put = m.pages[b].flushing = false;
    }
    if (defect != RESUME_TRUSTS_PLACED) {       /* [resume-placed] */
        m.ring.applied = m.ring.safe;
    }
}

/* As vhdx_ring_flush_data().  It may be one that a defect has left out. */
static void file_flush_end(void)
{
    if (!m.flushing) {
        return;
    }
    m.flushing = false;
    for (int p = 0; p < places; p++) {
        for (int i = 0; i < sectors; i++) {
            cell_flushed(&m.places[p].sector[i]);
        }
    }
    disk_flush_end(&m.disk);
    for (int b = 0; b < blocks; b++) {
        Page *page = &m.pages[b];

        if (page->flushing) {
            page_settle(page);
        }
    }
    /* [flushed-length] */
    if (!m.unsure) {
        m.stable_size = m.size < m.flush_size ||
                        defect == FLUSHED_OFFSET_LATE ? m.size : m.flush_size;
    }
    m.flush_size = 0;
    m.ring.safe = m.flush_applied;
    m.ring.stable = m.ring.sequence;
    m.flush_applied = 0;
}

#endif
