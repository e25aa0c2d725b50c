/*
 * What the model of dirty bitmaps is made of: an image's data, of which a part
 * is written in place and a part is entered by the log, its GUID, two places
 * for a directory with the bitmaps, and the head that names one of these.
 *
 * A directory stands for all that it names.  It says for which content it was
 * stored; as a bitmap must have all changes since, that must be the image's.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_DIRTY_H
#define MODEL_DIRTY_H

enum { GUID, HEAD, BLOCK, ENTRY, DIRECTORY, PLACES = 2,
       PAGES = DIRECTORY + PLACES };

#include "disk.h"

/* What DEFECT names, in the order of defect_names */
enum {
    HEAD_UNORDERED = 1, HEAD_BESIDE_OTHERS, NOT_TAKEN_BACK, UNSURE_FORGOTTEN,
    NAMES_OVERWRITTEN, UNSURE_OVERWRITTEN, REMOVED_UNSTABLE, GUID_IGNORED,
};

static const char *const defect_names[] = {
    "head-unordered", "head-beside-others", "not-taken-back",
    "unsure-forgotten", "names-overwritten", "unsure-overwritten",
    "removed-unstable", "guid-ignored",
};

static int defect;

typedef struct Image {
    Disk disk;
    uint8_t guid;               /* FileWriteGuid */
    uint8_t block, entry;       /* the content: versions of its two parts */
    uint8_t names;              /* grows when a bitmap is removed */
    uint8_t sure_names;         /* what was reported as removed */
    uint8_t head;               /* as the driver knows it */
    uint8_t next_head;          /* on its way to the log */
    uint8_t changes, stores, removals, fails;  /* that are still to come */
    bool entry_dirty;
    bool open;                  /* the log: the GUID is this opening's */
    bool unsure;                /* the head may be another than @head */
    bool started;
} Image;

static Image m;

/* -- Values of pages -- */

/* A head: the place, the names in it, and the GUID that it was stored under */
static uint8_t head_of(int place, int names, int guid)
{
    return place | names << 1 | guid << 4;
}

static int head_place(uint8_t head)
{
    return head & 1;
}

static int head_names(uint8_t head)
{
    return head >> 1 & 7;
}

static int head_guid(uint8_t head)
{
    return head >> 4;
}

/* A directory: names and content */
static uint8_t directory_now(void)
{
    return m.names | m.block << 2 | m.entry << 5;
}

static int directory_names(uint8_t directory)
{
    return directory & 3;
}

static bool directory_fits(uint8_t directory, int block, int entry)
{
    return (directory >> 2 & 7) == block && directory >> 5 == entry;
}

/* -- Changes -- */

/* The first change has a GUID of its own, by which no bitmap counts. */
static void begin(void)
{
    if (!m.open) {
        page_write(&m.disk, GUID, ++m.guid);
    }
}

static void begun(void)
{
    if (!m.open) {
        disk_flush(&m.disk);
        m.open = true;
    }
}

static void change_block(void)
{
    m.changes--;
    page_write(&m.disk, BLOCK, ++m.block);
}

static void change_entry(void)
{
    m.changes--;
    m.entry++;
    m.entry_dirty = true;
}

static void entry_write(void)
{
    if (m.entry_dirty) {
        log_write(&m.disk, ENTRY, m.entry);
        m.entry_dirty = false;
    }
}

/* -- Storing -- */

/*
 * The place that the head does not name, in case of a defect the one that it
 * does.  A head that may be stable names the other one. [dirty-names]
 */
static int place_for_store(void)
{
    return defect == NAMES_OVERWRITTEN ? head_place(m.head) :
           !head_place(m.head);
}

static void directory_write(void)
{
    page_write(&m.disk, DIRECTORY + place_for_store(), directory_now());
}

/* Bitmaps that count, or names only */
static void head_make(bool counts)
{
    m.next_head = head_of(place_for_store(), m.names, counts ? m.guid : 0);
}

/* The head that there was, but it does not count. */
static void head_take_back(void)
{
    m.next_head = head_of(head_place(m.head), head_names(m.head), 0);
    m.unsure = true;
}

/* All that the head speaks of is in the log. */
static void others_write(void)
{
    if (defect != HEAD_UNORDERED && defect != HEAD_BESIDE_OTHERS) {
        entry_write();  /* [dirty-barrier] */
    }
}

/* ... and stable */
static void others_flush(void)
{
    if (defect != HEAD_UNORDERED) {  /* [dirty-barrier] */
        disk_flush(&m.disk);
    }
}

static void head_write(void)
{
    log_write(&m.disk, HEAD, m.next_head);
    entry_write();
}

static void head_stable(void)
{
    disk_flush(&m.disk);
    m.head = m.next_head;
    m.unsure = false;
}

/* The flush fails: nobody knows what the file has. */
static void head_fails(void)
{
    m.fails--;
    m.unsure = true;
}

/* That a bitmap is removed is reported. */
static void removed(void)
{
    m.sure_names = m.names;
}

/* -- What a cut shows at this moment -- */

/* Whether the bitmaps of a head count, for who opens the image */
static bool head_counts(int head, int guid)
{
    /* [dirty-current] */
    return head_guid(head) && (head_guid(head) == guid ||
                               defect == GUID_IGNORED);
}

static bool is_wrong_in(const Left *left)
{
    int head = left->page[HEAD];
    int directory = left->page[DIRECTORY + head_place(head)];

    if (directory_names(directory) != head_names(head)) {
        return say_wrong("the names of bitmaps are lost");
    }
    if (head_names(head) < m.sure_names) {
        return say_wrong("a bitmap that was removed is there again");
    }
    if (head_counts(head, left->page[GUID]) &&
        !directory_fits(directory, left->page[BLOCK], left->page[ENTRY])) {
        return say_wrong("a bitmap counts for another content");
    }
    return false;
}

static bool is_wrong(void)
{
    return some_left(&m.disk, is_wrong_in);
}

/* -- The beginning: bitmaps that count, and no log -- */

static void image_start(void)
{
    memset(&m, 0, sizeof(m));
    defect = model_defect(defect_names,
                          sizeof(defect_names) / sizeof(*defect_names));
    m.changes = model_option("changes", 2);
    m.stores = model_option("stores", 2);
    m.removals = model_option("removals", 1);
    m.fails = model_option("fails", 1);
    disk_start(&m.disk);
    m.guid = 1;
    m.head = head_of(0, 0, m.guid);
    page_start(&m.disk, GUID, m.guid);
    page_start(&m.disk, HEAD, m.head);
    page_start(&m.disk, DIRECTORY + 1, directory_now() | 3);
    m.started = true;
}

#endif
