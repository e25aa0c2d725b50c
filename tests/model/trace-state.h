/*
 * What the checker of traces keeps beside the model's state: which pages there
 * are, what each version of them says, and where a record is.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_TRACE_STATE_H
#define MODEL_TRACE_STATE_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>

#define MODEL_OF_TRACES
#include "log-life.h"

#define MIB         ((uint64_t)1024 * 1024)
#define PAGE_BYTES  4096
#define PER_PAGE    (PAGE_BYTES / 8)

/* What a page of the BAT says: places from 1 on, or 0 where none is present */
typedef struct Content {
    Count entry[PER_PAGE];
} Content;

/* An entry in the log, by its slot */
typedef struct Span {
    uint32_t head, bytes;
} Span;

typedef struct Image {
    uint64_t block_size, log_offset, log_bytes, bat_offset, bat_bytes;
    uint64_t meta_offset, meta_bytes, ratio;
    int per_block;              /* places of a block */
    int last;                   /* LastFileOffset of the log to be replayed */
} Image;

/* Bytes of the file */
typedef struct Piece {
    uint64_t offset, bytes;
} Piece;

enum { PIECES = 256 };

typedef struct Trace {
    Image image;
    bool begun;                 /* the image is known, the run goes on */
    bool early;                 /* entries may be written beside their data */
    uint64_t offsets[BLOCKS];   /* of pages */
    Count at_take[BLOCKS];      /* what they said when the commit began */
    bool to_replay[BLOCKS];
    bool replay_put[BLOCKS];    /* in place */
    bool replay_flushing[BLOCKS];       /* ... before the flush under way */
    bool replay_stable[BLOCKS];
    Count set_at[BLOCKS][PER_PAGE];     /* version that an entry is set in */
    Count logged[BLOCKS];       /* versions that are stable */
    Count wanted[BLOCKS];       /* ... and that guests have been told of */
    unsigned freed_at[PLACES];  /* line */
    uint64_t logs[64];          /* GUIDs; a log is counted from 1 on */
    int log_count;
    uint64_t first_header;      /* number; the model's counts from there */
    uint64_t first_entry;       /* the same of the ring */
    Span spans[SLOTS];
    uint32_t head;              /* bytes: where the next entry goes */
    Entry entry;                /* being written */
    Span span;
    int entry_pages;            /* as it says; -1: there is none */
    uint64_t size;              /* bytes of the file */
    uint64_t prepared[ALLOCS];  /* bytes that are known to be zeros by now */
    bool written[ALLOCS];       /* data is there */
    unsigned touched_at[ALLOCS];        /* line where a write began first */
    int taken;                  /* the place that was taken last, */
    bool taken_zero;            /* ... which is known to be zeros */
    unsigned ended;             /* operations on data, counted at their ends */
    unsigned ended_flushing;    /* ... before the flush under way */
    unsigned ended_stable;      /* ... and before those that have ended */
    unsigned ended_wanted;      /* ... of requests that have ended */
    int punch_from, punch_to;   /* places that are being punched */
    Piece reads[PIECES], writes[PIECES];        /* of moves, that are to come */
    bool header_put;            /* a header is written, and not flushed */
    bool header_flushing;
    bool barrier_flushing;
    bool shown;                 /* a header of this open is stable */
    bool flushed;               /* since the commit began */
    bool must_latch;            /* a flush of metadata has failed */
    bool resumed;               /* all that was doubtful is flushed again */
    bool cut;                   /* the file was cut, which is not stable */
    bool cut_flushing;
    bool changed;               /* the file was written to since a flush */
    bool needs_flush;           /* the flush under way has something to do */
    bool file_flushed;          /* ... and has done it */
    enum { NO_CHECKPOINT, TO_EMPTY, EMPTIED } checkpoint;
} Trace;

static Trace t;

/* Versions of pages, by number; the first says nothing. */
static Content **contents;
static int content_count;

/* -- Where a record is -- */

static const char *file_name;
static char seed[80];           /* which run it is */
static unsigned line_number;
static char line_text[200];
static unsigned divergences;
static jmp_buf next_run;

/* The state, as far as it is told beside what is wrong */
static void state_print(void)
{
    const Ring *r = &m.ring;

    printf("#   log %s%s%s, entries up to %u, stable %u, applied %u, safe %u, "
           "given up %u, %u in use from %u on\n", m.open ? "open" : "closed",
           m.replaying ? ", to be replayed" : "", m.broken ? ", broken" : "",
           r->sequence, r->stable, r->applied, r->safe, r->given_up, r->used,
           slot_at(r->head - r->used));
    printf("#   header %u has number %u and log %u; commit %u, barrier %u, "
           "order %u; file %u MiB, stable %u, cut %d\n", m.header, m.sequence,
           m.disk.header[m.header].stable.log, m.commit_lock, m.barrier,
           m.order, m.size, m.stable_size, t.cut);
    for (int b = 0; b < blocks; b++) {
        const Page *p = &m.pages[b];

        if (p->dirty || p->taken || p->in_log) {
            printf("#   page 0x%" PRIx64 ":%s%s%s%s%s\n", t.offsets[b],
                   p->dirty ? " dirty" : "", p->taken ? " taken" : "",
                   p->written ? " written" : "", p->in_log ? " in the log" : "",
                   p->put ? " put in place" : "");
        }
    }
}

/* No rule of the model allows this step: @tag names the one that forbids it. */
static void __attribute__((format(printf, 2, 3), noreturn))
diverge(const char *tag, const char *format, ...)
{
    va_list ap;

    printf("# DIVERGES in %s, line %u [%s]: ", seed, line_number, tag);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("\n#   %s:%u: %s\n", file_name, line_number, line_text);
    state_print();
    divergences++;
    longjmp(next_run, 1);
}

#define RULE(holds, tag, ...) do { \
        if (!(holds)) { \
            diverge(tag, __VA_ARGS__); \
        } \
    } while (0)

/* What the checker itself is too small for, or does not understand */
static void __attribute__((format(printf, 1, 2), noreturn))
give_up(const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "%s:%u: ", file_name, line_number);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "\n%s\n", line_text);
    exit(2);
}

/* -- Pages -- */

/* The number of the page at @offset of the file */
static int page_at(uint64_t offset)
{
    for (int b = 0; b < blocks; b++) {
        if (t.offsets[b] == offset) {
            return b;
        }
    }
    if (blocks == BLOCKS) {
        give_up("more than %d pages", BLOCKS);
    }
    t.offsets[blocks] = offset;
    return blocks++;
}

static int content_new(const Content *from)
{
    static int room;

    if (content_count == room) {
        room = room ? 2 * room : 1024;
        contents = realloc(contents, room * sizeof(*contents));
    }
    contents[content_count] = calloc(1, sizeof(Content));
    if (from) {
        *contents[content_count] = *from;
    }
    return content_count++;
}

static void contents_free(void)
{
    while (content_count) {
        free(contents[--content_count]);
    }
    content_new(NULL);
}

static struct Page *page_of(int index)
{
    return &m.pages[page_at(t.image.bat_offset +
                            index / PER_PAGE * PAGE_BYTES)];
}

/* Nothing that was taken or logged changes by it. */
static void page_set(int index, int entry)
{
    Page *page = page_of(index);

    page->now = content_new(contents[page->now]);
    contents[page->now]->entry[index % PER_PAGE] = entry;
    t.set_at[page - m.pages][index % PER_PAGE] = page->now;
}

/* The place of the block with BAT index @index, from 1 on, or 0 */
static int block_place(int index)
{
    return contents[page_of(index)->now]->entry[index % PER_PAGE];
}

/* Where the last block ends that the pages name, in places */
static int named_end(const Content *c)
{
    int end = 0;

    for (int i = 0; i < PER_PAGE; i++) {
        int to = c->entry[i] ? c->entry[i] - 1 + t.image.per_block : 0;

        end = end > to ? end : to;
    }
    return end;
}

static int log_number(uint64_t guid)
{
    int log = 0;

    if (!guid) {
        return 0;
    }
    while (log < t.log_count && t.logs[log] != guid) {
        log++;
    }
    if (log == 64) {
        give_up("too many logs");
    }
    t.logs[log] = guid;
    t.log_count = t.log_count > log + 1 ? t.log_count : log + 1;
    return log + 1;
}

/* Whether metadata may be written: [flush-latched] */
static void metadata_begin(void)
{
    RULE(!t.must_latch, "flush-latched",
         "a flush has failed, and metadata is written");
    RULE(!m.broken || t.resumed, "flush-latched",
         "metadata is written, though nothing may be before it is resumed");
}

#endif
