/*
 * VHDX unit tests: what a disk that many write to should hold
 *
 * Workers share the disk.  Each sector belongs to one of them, which alone
 * writes to it, so that the worker knows what was written last; but the blocks
 * that the sectors lie in are shared.  A sector holds a number that its worker
 * has never used before, or zeros.
 *
 * A block as a whole is made to read as zeros by a single worker, its freer,
 * while others write to their sectors in it.  The freer numbers these events
 * and counts those begun and ended.  A write that overlaps one may come before
 * or after it: then both are right, the number and zeros.  What did not
 * overlap has just one right order.  So each sector remembers, from around its
 * last write, how many had ended before and begun after it.
 *
 * Workers tell each other nothing but these two counts, with as little order
 * between them as the counting needs: a lock here would hide from
 * ThreadSanitizer that the driver lacks one.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_MODEL_H
#define TESTS_UNIT_VHDX_TEST_MODEL_H

#include "qemu/atomic.h"
#include "qemu/units.h"

#define SECTOR          512
#define BLOCK           MiB
#define BLOCK_SECTORS   (BLOCK / SECTOR)
#define STRIPE          64          /* sectors in a row of the same worker */

#define WORKERS         16
#define SHARED_AREAS    40          /* of one block */
#define OWN_BLOCKS      3           /* of each worker, in one area */
#define AREAS           (SHARED_AREAS + WORKERS)

/* Entries of the BAT in a page; an area for each page, about */
#define PAGE_ENTRIES    512
#define DISK_SIZE       ((AREAS + 2) * PAGE_ENTRIES * BLOCK)

/* The last write to a sector. */
typedef struct Cell {
    uint32_t id;                    /* what was written; 0 is zeros */
    uint32_t ended;                 /* events of the block before it */
    uint32_t begun;                 /* ... and after it */
    bool maybe_zero;                /* was discarded in part of a block */
    bool unknown;                   /* the write failed */
} Cell;

typedef struct Area {
    uint64_t start;                 /* sector */
    unsigned sectors;
    int owner;                      /* worker, or -1: it is shared */
    int freer;                      /* worker */
    uint32_t begun[OWN_BLOCKS];     /* events of each block */
    uint32_t ended[OWN_BLOCKS];
    Cell *cells;
} Area;

typedef struct Model {
    Area areas[AREAS];
} Model;

/* The counts of an area's blocks at one time. */
typedef struct Counts {
    uint32_t of[OWN_BLOCKS];
} Counts;

static inline Model *model_new(void)
{
    Model *model = g_new0(Model, 1);

    for (int i = 0; i < AREAS; i++) {
        Area *area = &model->areas[i];
        int own = i - SHARED_AREAS;
        /* A worker's own blocks have their entries in two pages. */
        uint64_t entry = (i + 1) * (uint64_t)PAGE_ENTRIES +
                         (own < 0 ? 7 * i : PAGE_ENTRIES - 1);
        /* After every 4096 there is the entry of a bitmap block. */
        uint64_t block = entry - entry / 4097;

        area->start = block * BLOCK_SECTORS;
        area->sectors = (own < 0 ? 1 : OWN_BLOCKS) * BLOCK_SECTORS;
        area->owner = own < 0 ? -1 : own;
        area->freer = own < 0 ? i % WORKERS : own;
        area->cells = g_new0(Cell, area->sectors);
    }
    return model;
}

static inline void model_free(Model *model)
{
    for (int i = 0; i < AREAS; i++) {
        g_free(model->areas[i].cells);
    }
    g_free(model);
}

/* Whose sector @sector of @area is. */
static inline int area_owner(const Area *area, unsigned sector)
{
    return area->owner >= 0 ? area->owner : sector / STRIPE % WORKERS;
}

static inline Counts area_ended(Area *area)
{
    Counts counts;

    for (int i = 0; i < OWN_BLOCKS; i++) {
        counts.of[i] = qatomic_load_acquire(&area->ended[i]);
    }
    return counts;
}

static inline Counts area_begun(Area *area)
{
    Counts counts;

    for (int i = 0; i < OWN_BLOCKS; i++) {
        counts.of[i] = qatomic_read(&area->begun[i]);
    }
    return counts;
}

/* The freer is about to make block @block read as zeros; it has done so. */
static inline void area_free_begin(Area *area, unsigned block)
{
    qatomic_set(&area->begun[block], area->begun[block] + 1);
}

static inline void area_free_end(Area *area, unsigned block)
{
    qatomic_store_release(&area->ended[block], area->begun[block]);
}

/* What a sector that @id was written to holds. */
static inline void sector_fill(uint8_t *buf, uint64_t sector, uint32_t id)
{
    uint64_t words[SECTOR / 8] = { 0 };

    for (int i = 0; id && i < SECTOR / 8; i++) {
        words[i] = ((uint64_t)id << 32 | i << 24) ^ (sector * 2654435761U);
    }
    memcpy(buf, words, SECTOR);
}

static inline void area_fill(const Area *area, unsigned sector, unsigned count,
                             uint32_t id, uint8_t *buf)
{
    for (unsigned i = 0; i < count; i++) {
        sector_fill(buf + i * SECTOR, area->start + sector + i, id);
    }
}

/* Note that @id was written, or zeros, or that this has failed: @ret. */
static inline void area_note(Area *area, unsigned sector, unsigned count,
                             uint32_t id, const Counts *ended, int ret)
{
    Counts begun = area_begun(area);

    for (unsigned i = sector; i < sector + count; i++) {
        area->cells[i] = (Cell) {
            .id = id,
            .ended = ended->of[i / BLOCK_SECTORS],
            .begun = begun.of[i / BLOCK_SECTORS],
            .unknown = ret < 0,
        };
    }
}

/* Note that a part of a block was discarded: it is zeros or as it was. */
static inline void area_note_discard(Area *area, unsigned sector,
                                     unsigned count)
{
    for (unsigned i = sector; i < sector + count; i++) {
        area->cells[i].maybe_zero = true;
    }
}

/*
 * Check what was read, @buf, against what is known of the sectors of @worker,
 * or of all with -1.  @ended is from before the read.
 */
static inline void area_compare(Area *area, unsigned sector, unsigned count,
                                int worker, const Counts *ended,
                                const uint8_t *buf)
{
    Counts begun = area_begun(area);

    for (unsigned i = sector; i < sector + count; i++, buf += SECTOR) {
        const Cell *cell = &area->cells[i];
        unsigned block = i / BLOCK_SECTORS;
        uint8_t want[SECTOR];

        if ((worker >= 0 && area_owner(area, i) != worker) || cell->unknown) {
            continue;
        }
        if (ended->of[block] <= cell->begun) {
            sector_fill(want, area->start + i, cell->id);
            if (!memcmp(buf, want, SECTOR)) {
                continue;
            }
        }
        if (cell->id == 0 || cell->maybe_zero ||
            begun.of[block] > cell->ended) {
            memset(want, 0, SECTOR);
            if (!memcmp(buf, want, SECTOR)) {
                continue;
            }
        }
        g_error("sector %" PRIu64 " (owner %d, seen by %d) holds 0x%016" PRIx64
                "; written was %u (between events %u and %u of its block, now "
                "%u to %u%s)", area->start + i, area_owner(area, i), worker,
                *(uint64_t *)buf, cell->id, cell->ended, cell->begun,
                ended->of[block], begun.of[block],
                cell->maybe_zero ? ", discarded" : "");
    }
}

#endif
