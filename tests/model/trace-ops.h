/*
 * Operations on the file in a trace, and the requests of guests that they are
 * for: where data goes, and what a guest's flush has to make stable.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_TRACE_OPS_H
#define MODEL_TRACE_OPS_H

#include "trace-file.h"

/* -- Operations on the data -- */

enum { OPS = 8192 };

typedef enum OpKind { READ, WRITE_DATA, WRITE_ZEROS, DISCARD_IT, TRUNCATE,
                      FLUSH_IT } OpKind;

typedef struct Op {
    unsigned id;
    OpKind kind;
    enum { ELSEWHERE, IN_LOG, IN_PAGES, IN_DATA } where;
    uint64_t offset, bytes;
    unsigned began;             /* line */
    unsigned ended;             /* by t.ended, or 0 */
    uint64_t size;              /* of the file, as it began */
    uint64_t sector;            /* of the disk: where data belongs, */
    int guest;                  /* ... and whose it is, or -1 */
} Op;

static Op ops[OPS];             /* by id */
static unsigned last_op;

/* A guest's request */
typedef struct Guest {
    OpKind kind;
    bool active;
    unsigned began;             /* line */
    unsigned ended;             /* its last operation, by t.ended, or 0 */
    uint64_t sector, count;
    unsigned ended_wanted;      /* a flush: what is to be stable at its end */
    Count *wanted;
} Guest;

enum { REQUESTS = 8192 };

static Guest requests[REQUESTS];
static int request_count;

static Request *request_new(unsigned id, int place)
{
    for (Request *r = m.requests; r < m.requests + GUESTS; r++) {
        if (!r->active) {
            *r = (Request) { .active = true, .kind = WRITE, .block = id,
                             .place = place + 1 };
            return r;
        }
    }
    give_up("more than %d requests", GUESTS);
}

/*
 * A piece of a block is about to be read at @from, and then to be written at
 * @to, if that is not 0.  What comes of it nobody sees before an entry names
 * the new place, and none does where the block has left the old one meanwhile.
 */
static void piece_moves(uint64_t from, uint64_t to, uint64_t bytes)
{
    int i = 0;

    while (t.reads[i].bytes || t.writes[i].bytes) {
        if (++i == PIECES) {
            give_up("more than %d pieces of blocks", PIECES);
        }
    }
    t.reads[i] = (Piece) { from, bytes };
    t.writes[i] = (Piece) { to, to ? bytes : 0 };
}

/* Whether @op is what one of @pieces is to come to. */
static bool is_piece(Piece *pieces, const Op *op)
{
    for (Piece *p = pieces; p < pieces + PIECES; p++) {
        if (p->bytes && p->offset == op->offset && p->bytes == op->bytes) {
            p->bytes = 0;
            return true;
        }
    }
    return false;
}

static bool is_punched(const Op *op, int p)
{
    return (op->kind == DISCARD_IT || op->kind == WRITE_ZEROS) &&
           p >= t.punch_from && p < t.punch_to;
}

/* The block whose data stands in place @p, where @op writes */
static int op_block(const Op *op, int p)
{
    uint64_t at = p * MIB > op->offset ? p * MIB : op->offset;
    uint64_t block = (op->sector * 512 + at - op->offset) /
                     t.image.block_size;

    return block + block / t.image.ratio;
}

/* A guest's data goes to place @p. */
static void guest_writes(const Op *op, int p)
{
    const Guest *g = &requests[op->guest];
    int index = op_block(op, p), place = block_place(index) - 1;
    Alloc *a = alloc_at(p);

    if (m.places[p].state == USED) {
        RULE(!a || a->block == index, "freed-tickets",
             "data of one block is written to the place of another");
        RULE(!a || place < 0, "shared-place",
             "data is written to a second place of a block");
        RULE(a || (p >= place && p < place + t.image.per_block),
             "freed-tickets",
             "data of a block is written to a place that is not its own");
    } else {
        RULE(g->began < t.freed_at[p], "freed-detached",
             "data is written to place %d, which was free before", p);
    }
}

/* data_begin() in the model, or what zeroes a place */
static void data_begins(const Op *op, int p)
{
    Alloc *a = alloc_at(p);

    if (op->kind == READ) {
        request_new(op->id, p);
        return;
    }
    if (is_punched(op, p) && m.places[p].state != USED) {
        return;
    }
    if (op->guest >= 0) {
        guest_writes(op, p);
    }
    RULE(m.places[p].state != FREE && m.places[p].state != BEYOND,
         "freed-tickets", "a write begins to place %d, which is free", p);
    request_new(op->id, p);
    if (a && a->phase == READY) {
        if (!a->touched) {
            t.touched_at[a - m.allocs] = line_number;
        }
        a->touched = true;
    } else if (a) {
        RULE(op->kind == WRITE_ZEROS, "place-zeroed",
             "data is written to place %d, which may not read as zeros", p);
    }
}

static void data_ends(Op *op, int ret)
{
    uint64_t end = op->offset + op->bytes;

    op->ended = ++t.ended;
    if (op->guest >= 0) {
        requests[op->guest].ended = t.ended;
    }
    for (Request *r = m.requests; r < m.requests + GUESTS; r++) {
        if (r->active && r->block == op->id) {
            memset(r, 0, sizeof(*r));
        }
    }
    for (Alloc *a = m.allocs; a < m.allocs + ALLOCS; a++) {
        uint64_t from = a->place * MIB, to = from + t.image.block_size;

        from = from > op->offset ? from : op->offset;
        to = to < end ? to : end;
        if (!a->refs || from >= to) {
            continue;
        }
        if (ret == 0 && op->kind == WRITE_DATA) {
            t.written[a - m.allocs] = true;
        } else if (a->phase != READY && op->kind == WRITE_ZEROS) {
            if (ret < 0) {
                t.prepared[a - m.allocs] = 0;
            } else {
                alloc_zeroed(a, to - from);
            }
        }
    }
}

static void zeros_told(uint64_t offset, uint64_t bytes)
{
    Alloc *a = alloc_at(offset / MIB);

    if (a && a->phase != READY) {
        alloc_zeroed(a, bytes);
    }
}

static bool is_within(uint64_t offset, uint64_t from, uint64_t bytes)
{
    return offset >= from && offset < from + bytes;
}

static void op_begins(unsigned id, OpKind kind, uint64_t offset,
                      uint64_t bytes, uint64_t sector, int guest)
{
    const Image *i = &t.image;
    Op *op = &ops[id % OPS];
    Range r;

    last_op = id;
    *op = (Op) { .id = id, .kind = kind, .offset = offset, .bytes = bytes,
                 .began = line_number, .size = t.size, .sector = sector,
                 .guest = guest };
    if (kind == TRUNCATE) {
        truncate_begins(offset);
        return;
    }
    if (kind == FLUSH_IT) {
        t.changed = false;
        return;
    }
    if (offset < MIB || is_within(offset, i->bat_offset, i->bat_bytes) ||
        is_within(offset, i->meta_offset, i->meta_bytes)) {
        /* The headers are told of in lines of their own. */
        op->where = offset < 3 * 65536 ? ELSEWHERE : IN_PAGES;
    } else if (is_within(offset, i->log_offset, i->log_bytes)) {
        op->where = IN_LOG;
        if (kind == WRITE_ZEROS) {
            log_zeros(offset - i->log_offset, bytes);
        }
    } else {
        op->where = IN_DATA;
        if (kind == READ && is_piece(t.reads, op)) {
            return;
        }
        if (kind != READ && is_piece(t.writes, op)) {
            op->guest = -1;
        }
        r = range(offset, bytes);
        for (int p = r.from; p < r.to; p++) {
            data_begins(op, p);
        }
    }
}

static void op_ends(unsigned id, int ret, uint64_t size)
{
    Op *op = &ops[id % OPS];

    if (op->id != id) {
        give_up("there is no operation %u", id);
    }
    t.size = size;
    if (op->kind == FLUSH_IT) {
        t.file_flushed |= ret == 0;
        t.changed |= ret < 0;
        return;
    }
    t.changed |= op->kind == TRUNCATE ? ret == 0 : op->kind != READ;
    if (op->kind == TRUNCATE) {
        truncate_ends(op->offset, op->size, ret);
    } else if (op->where == IN_DATA) {
        data_ends(op, ret);
    } else if (op->where == IN_PAGES && op->kind != READ && ret == 0) {
        for (uint64_t at = 0; at < op->bytes; at += PAGE_BYTES) {
            placing_ends(op->offset + at);
        }
    }
}

/* -- Requests of guests -- */

static void guest_begins(int id, OpKind kind, uint64_t sector, uint64_t count)
{
    Guest *g = &requests[id];

    if (id >= REQUESTS) {
        give_up("more than %d requests of guests", REQUESTS);
    }
    *g = (Guest) { .kind = kind, .active = true, .began = line_number,
                   .sector = sector, .count = count };
    request_count = id + 1;
    if (kind == FLUSH_IT) {
        g->ended_wanted = t.ended_wanted;
        g->wanted = malloc(sizeof(t.wanted));
        memcpy(g->wanted, t.wanted, sizeof(t.wanted));
    }
}

/* The entry with this index, as it is, is to be stable with the next flush. */
static void entry_is_wanted(int index)
{
    int b = page_of(index) - m.pages;
    Count set_at = t.set_at[b][index % PER_PAGE];

    t.wanted[b] = set_at > t.wanted[b] ? set_at : t.wanted[b];
}

/* What it has written is to be stable with the next flush. */
static void guest_has_written(const Guest *g)
{
    uint64_t first = g->sector * 512 / t.image.block_size;
    uint64_t last = ((g->sector + g->count) * 512 - 1) / t.image.block_size;

    if (g->ended > t.ended_wanted) {
        t.ended_wanted = g->ended;
    }
    for (uint64_t block = first; block <= last; block++) {
        int index = block + block / t.image.ratio;

        if (block_place(index)) {
            entry_is_wanted(index);
        }
    }
}

/*
 * When zeros were written first to all of these bytes of the file since @g has
 * begun, by t.ended; 0 if they were not
 */
static unsigned zeros_ended(const Guest *g, uint64_t offset, uint64_t bytes)
{
    unsigned ended = 0;

    for (unsigned id = last_op; id && last_op - id < OPS; id--) {
        const Op *op = &ops[id % OPS];

        if (op->began < g->began) {
            break;
        }
        if (op->kind == WRITE_ZEROS && op->ended && op->offset <= offset &&
            op->offset + op->bytes >= offset + bytes) {
            ended = op->ended;
        }
    }
    return ended;
}

/*
 * Its zeros are in the file where the block is present, and are to be stable.
 * They are as well where a block has got a place and is not published, and a
 * write there has begun before: alloc_zero() in the model.  Where a block has
 * no place its entry says so, or is to.
 */
static void guest_has_zeroed(const Guest *g)
{
    uint64_t at = g->sector * 512, end = (g->sector + g->count) * 512, to;

    for (; at < end; at = to) {
        uint64_t block = at / t.image.block_size, start;
        int index = block + block / t.image.ratio;
        int place = block_place(index);
        Alloc *a = alloc_of_block(index);
        unsigned ended;

        to = (block + 1) * t.image.block_size;
        to = to < end ? to : end;
        start = at - block * t.image.block_size;
        if (place) {
            ended = zeros_ended(g, (place - 1) * MIB + start, to - at);
            t.ended_wanted = ended > t.ended_wanted ? ended : t.ended_wanted;
        } else if (a && a->touched &&
                   t.touched_at[a - m.allocs] < g->began) {
            RULE(zeros_ended(g, a->place * MIB + start, to - at),
                 "failed-zeroed", "a block is zeroed that is about to be "
                 "published, and its place %u is not", a->place);
        } else if (!a) {
            entry_is_wanted(index);
        }
    }
}

static void guest_has_flushed(const Guest *g)
{
    RULE(t.ended_stable >= g->ended_wanted, "change-generation",
         "a guest's flush has ended, and data from before it is not flushed");
    for (int b = 0; b < blocks; b++) {
        RULE(t.logged[b] >= g->wanted[b], "change-generation",
             "a guest's flush has ended, and page 0x%" PRIx64
             " is not stable as it was before it", t.offsets[b]);
    }
}

static void guest_ends(int id, int ret)
{
    Guest *g = &requests[id];

    if (ret == 0 && g->kind == WRITE_DATA) {
        guest_has_written(g);
    } else if (ret == 0 && g->kind == WRITE_ZEROS) {
        guest_has_zeroed(g);
    } else if (ret == 0 && g->kind == FLUSH_IT) {
        guest_has_flushed(g);
    }
    free(g->wanted);
    g->wanted = NULL;
    g->active = false;
}

static void guests_forget(void)
{
    while (request_count) {
        free(requests[--request_count].wanted);
        memset(&requests[request_count], 0, sizeof(Guest));
    }
}

#endif
