/*
 * What the model of moves is made of: something that the log writes to, which
 * is in one of two places, the page that names its place, and another object
 * that takes a place which has been left.
 *
 * It stands for a region, which the region tables name, and for a sector bitmap
 * with its entry in the BAT.  One that is dropped stands for a bitmap that no
 * block needs, or for what a region has lost that got shorter.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_MOVE_H
#define MODEL_MOVE_H

enum { NAME, OTHER, CONTENT, PLACES = 2, PAGES = CONTENT + PLACES };

#include "disk.h"

/* What a place has that is not a version of what moves */
enum { GARBAGE = 14, OF_OTHER };

/* What DEFECT names, in the order of defect_names */
enum {
    COPIED_EARLY = 1, COPY_UNFLUSHED, LEFT_EARLY, LEFT_WITH_LOG,
    DROPPED_WITH_LOG,
};

static const char *const defect_names[] = {
    "copied-early", "copy-unflushed", "left-early", "left-with-log",
    "dropped-with-log",
};

static int defect;

/* What names a place has its number and one, or 0 for none. */
typedef struct Move {
    Disk disk;
    uint8_t place;              /* where it is, from 1 on; or 0 */
    uint8_t to;                 /* where it goes */
    uint8_t content;            /* the version that it has */
    uint8_t sure;               /* the one that was reported as stable */
    uint8_t free;               /* places that may be taken, as bits */
    uint8_t taken;              /* the place of the other object, or 0 */
    uint8_t changes, moves;     /* that are still to come */
    bool gone;                  /* that it was dropped has been reported */
    bool lock;                  /* commit_lock */
} Move;

static Move m;

static int content_of(int place)
{
    return CONTENT + place - 1;
}

static void move_start(void)
{
    memset(&m, 0, sizeof(m));
    defect = model_defect(defect_names,
                          sizeof(defect_names) / sizeof(*defect_names));
    m.changes = model_option("changes", 2);
    m.moves = model_option("moves", 2);
    m.place = m.content = m.sure = 1;
    m.free = 1 << 2;
    disk_start(&m.disk);
    page_start(&m.disk, NAME, m.place);
    page_start(&m.disk, content_of(1), m.content);
    page_start(&m.disk, content_of(2), GARBAGE);
}

/* -- What is changed by the log -- */

static bool may_change(void)
{
    return m.changes && m.place && !m.lock;
}

static void change(void)
{
    m.changes--;
    m.lock = true;
    log_write(&m.disk, content_of(m.place), ++m.content);
}

static void changed(void)
{
    disk_flush(&m.disk);
    m.sure = m.content;
    m.lock = false;
}

/* -- A move -- */

static bool may_move(void)
{
    return m.moves && m.place && m.free & 1 << (3 - m.place) && !m.lock;
}

/* No change comes between from here on; the place is nobody else's. */
static void move_begin(void)
{
    m.moves--;
    m.lock = true;
    m.to = 3 - m.place;
    m.free &= ~(1 << m.to);
}

static void drop_begin(void)
{
    m.moves--;
    m.lock = true;
    m.to = 0;
}

/* No replay writes to the place from here on. [move-replay] */
static void checkpoint_write(void)
{
    if (defect != (m.to ? LEFT_WITH_LOG : DROPPED_WITH_LOG)) {
        log_write(&m.disk, TAIL, 0);
    }
}

static void move_copy(void)
{
    page_write(&m.disk, content_of(m.to),
               page_now(&m.disk, content_of(m.place)));
}

/* [move-barrier] */
static void copy_flush(void)
{
    if (defect != COPY_UNFLUSHED) {
        disk_flush(&m.disk);
    }
}

static void place_free(void)
{
    m.free |= 1 << m.place;
}

static void move_enter(void)
{
    log_write(&m.disk, NAME, m.to);
    if (defect == LEFT_EARLY) {  /* [freed-wait] */
        place_free();
    }
}

static void moved(void)
{
    disk_flush(&m.disk);
    if (defect != LEFT_EARLY) {
        place_free();
    }
    m.place = m.to;
    m.gone = !m.place;
    m.to = 0;
    m.lock = false;
}

/* -- The other object -- */

static bool may_take(void)
{
    return m.free && !m.taken;
}

static void take(void)
{
    m.taken = m.free & 1 << 1 ? 1 : 2;
    m.free &= ~(1 << m.taken);
    page_write(&m.disk, content_of(m.taken), OF_OTHER);
}

/* -- What a cut shows at this moment -- */

static bool is_wrong_in(const Left *left)
{
    int name = left->page[NAME], other = left->page[OTHER];
    int content = name ? left->page[content_of(name)] : m.sure;

    if (m.gone && name) {
        return say_wrong("what was dropped is there again");
    }
    if (content < m.sure || content > m.content) {
        return say_wrong(content == GARBAGE ? "it shows garbage" :
                         content == OF_OTHER ? "it shows another's data" :
                         "it lacks a change");
    }
    if (other && left->page[content_of(other)] != OF_OTHER) {
        return say_wrong("another's data is overwritten");
    }
    return false;
}

static bool is_wrong(void)
{
    return some_left(&m.disk, is_wrong_in);
}

#endif
