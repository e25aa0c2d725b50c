/*
 * What the model of changes to a whole image is made of: the entries of two
 * blocks, each in a page of its own, the entry of a sector bitmap, and items
 * that say of all blocks at once how they are to be read: that the image is
 * fixed, the disk's size, whether there is a parent, and the locator.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_FLAG_H
#define MODEL_FLAG_H

enum { BLOCKS = 2 };

/* A page has the entry of a block, its data, the bitmap's entry, or items. */
enum { ENTRY, BITMAP = ENTRY + BLOCKS, ITEMS, DATA, PAGES = DATA + BLOCKS };

#include "disk.h"

/* What an entry says; UNFIT is what it must not when the change is done. */
enum { UNFIT, ZEROS, PRESENT };

/* What is in ITEMS, as bits; one bit stands for all of a kind but a parent. */
enum { FLAG = 1, LOCATOR = 2 };

enum { FIX, GROW_CHILD, FLATTEN, ADOPT, COUNT_OF_KINDS };

static const char *const kind_names[] = {
    "fix", "grow", "flatten", "adopt",
};

/* What DEFECT names, in the order of defect_names */
enum {
    FLAG_FIRST = 1, ONE_COMMIT, TWO_STEPS, BITMAPS_EARLY, UNORDERED,
    UNCOMMITTED,
};

static const char *const defect_names[] = {
    "flag-first", "one-commit", "two-steps", "bitmaps-early", "unordered",
    "uncommitted",
};

static int defect;

typedef struct Image {
    Disk disk;
    uint8_t kind;
    uint8_t memory[DATA];       /* what pages have in memory */
    uint8_t dirty;              /* those that are not in the log, as bits */
    uint8_t taken;              /* those that a commit has taken */
    bool barrier;               /* the next commit needs a flush before */
    bool lock;                  /* commit_lock */
    bool started;
    bool reported;              /* the change is said to have been made */
} Image;

static Image m;

static int kinds;

static bool is_about_parent(void)
{
    return m.kind == FLATTEN || m.kind == ADOPT;
}

static uint8_t items_after(void)
{
    return m.kind == FLATTEN ? 0 : m.kind == ADOPT ? FLAG | LOCATOR : FLAG;
}

static void options_read(void)
{
    defect = model_defect(defect_names,
                          sizeof(defect_names) / sizeof(*defect_names));
    kinds = model_set("kinds", kind_names, COUNT_OF_KINDS);
}

static void image_start(int kind)
{
    m.kind = kind;
    disk_start(&m.disk);
    if (kind == FLATTEN) {
        m.memory[BITMAP] = 1;
        m.memory[ITEMS] = FLAG | LOCATOR;
        page_start(&m.disk, BITMAP, 1);
        page_start(&m.disk, ITEMS, FLAG | LOCATOR);
    }
    m.started = true;
}

/* -- Commits -- */

static void page_set(int page, uint8_t value)
{
    if (m.memory[page] != value) {
        m.memory[page] = value;
        m.dirty |= 1 << page;
    }
}

/* What is written before is stable before the entries that follow. */
static void commit_begin(void)
{
    m.lock = true;
    m.taken = m.dirty;
    m.dirty = 0;
    if (m.barrier) {
        disk_flush(&m.disk);
        m.barrier = false;
    }
}

/* Nothing changes in the pages of a commit while it writes them. */
static void commit_write(int page)
{
    log_write(&m.disk, page, m.memory[page]);
    m.taken &= ~(1 << page);
}

static void commit_end(void)
{
    disk_flush(&m.disk);
    m.lock = false;
}

/* -- The change -- */

/* A block gets a place, with zeros or the parent's data. */
static void block_fill(int block)
{
    if (m.kind == FIX || m.kind == FLATTEN) {
        page_write(&m.disk, DATA + block, 1);
    }
}

static void block_enter(int block)
{
    bool placed = m.kind == FIX || m.kind == FLATTEN;

    page_set(ENTRY + block, placed ? PRESENT : ZEROS);
    m.barrier |= placed && defect != UNORDERED;  /* [data-barrier] */
}

/* -- What a cut shows at this moment -- */

static bool is_wrong_in(const Left *left)
{
    bool unfit = false;
    uint8_t items = left->page[ITEMS];

    for (int i = 0; i < BLOCKS; i++) {
        int state = left->page[ENTRY + i];

        unfit |= state == UNFIT;
        if (state == PRESENT && !left->page[DATA + i]) {
            return say_wrong("a block shows garbage");
        }
    }
    if (m.reported && items != items_after()) {
        return say_wrong("what was reported is undone");
    }
    if (is_about_parent() && items != 0 && items != (FLAG | LOCATOR)) {
        return say_wrong("it has half a parent");
    }
    if (m.kind == FLATTEN && unfit && !left->page[BITMAP]) {
        return say_wrong("a block lacks its sector bitmap");
    }
    if (unfit && items == items_after()) {
        return say_wrong(m.kind == FIX ? "a block of a fixed image is absent" :
                         m.kind == FLATTEN ? "a block needs what has gone" :
                         "a block shows the parent's data");
    }
    if (m.kind == FLATTEN && !items && left->page[BITMAP]) {
        return say_wrong("an image without a parent has a sector bitmap");
    }
    return false;
}

static bool is_wrong(void)
{
    return some_left(&m.disk, is_wrong_in);
}

#endif
